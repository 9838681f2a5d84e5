"""The day a GPU is at hand: T2, T3, the planner's peaks, the methods and the scorer on it, as Markdown for pipelines/EVIDENCE.md.

    python tests/bench/bench_gpu.py [--size 8b|tiny] [--device cuda] [--steps 12] [--only T2]

The weights are random, in the shape of Llama 3.1 8B, and written once into a temporary folder (16 GB): speed and memory do not
depend on what they say. Each measurement runs in a process of its own; the first two steps of a training are left out of its rate.
``--size tiny --device cpu`` tries the program itself where there is no GPU; its figures mean nothing.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "components"), str(ROOT / "pipelines"), str(HERE)]

import machine  # noqa: E402

WARM = 2  # steps left out
GIB = 2**30
SIZES: dict[str, dict[str, int]] = {
    "8b": {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192},
    "tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192},
}  # fmt: skip
# (what is trained, tokens of a row, rows of a step, settings, the least tokens/s, the most GiB); 0: no target
TRAININGS: dict[str, tuple[int, int, dict[str, Any], float, float]] = {
    "T2: LoRA, packs of 4096 from rows of 512": (512, 32, {}, 12_500, 0),
    "LoRA, rows of 4096": (4096, 4, {}, 0, 0),
    "LoRA, packs of 4096 from rows of 128": (128, 128, {}, 0, 0),
    "LoRA, padded rows of 512": (512, 32, {"packing": "padded"}, 0, 0),
    "T3: QLoRA (NF4), 2 rows of 2048, checkpointing": (2048, 2, {"method": "qlora", "gradient_checkpointing": True}, 0, 7.5),
    "QLoRA, 2 rows of 2048, paged 8-bit moments": (2048, 2, {"method": "qlora", "gradient_checkpointing": True, "optimizer": "paged_adamw_8bit"}, 0, 0),
    "LoRA, checkpointing": (512, 32, {"gradient_checkpointing": True}, 0, 0),
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", default="", help="measurements whose name holds this")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.child:
        name, folder = given.child
        print(json.dumps(WORKS.get(name, training)(name, Path(folder), given)))
        return
    _ask_for_a_gpu(given.device)
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        _say_where(given)
        if any(given.only in name for name in (*TRAININGS, *WORKS)):
            child("base", folder, given)
        _trainings([name for name in TRAININGS if given.only in name], folder, given)
        for name in [name for name in WORKS if name != "base" and given.only in name]:
            print(f"{name}: {child(name, folder, given)}\n", flush=True)


def _ask_for_a_gpu(device: str) -> None:
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        sys.exit("This bench measures a CUDA GPU, and torch sees none here: run it where there is one and its driver, with a CUDA build of torch (`make setup` takes it from the index). Nothing was measured.")  # fmt: skip


def _say_where(given: argparse.Namespace) -> None:
    import torch

    where = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}" if given.device != "cpu" else "no GPU: the program is tried, nothing is measured"  # fmt: skip
    print(machine.line(f"{where}; random weights, {given.size}; {given.steps} steps, the first {WARM} left out", ["torch", "transformers", "peft", "bitsandbytes"]))  # fmt: skip


def child(name: str, folder: str, given: argparse.Namespace) -> Any:
    """What a process of its own found, or the last line of what it said."""
    command = [sys.executable, __file__, "--child", name, folder, "--size", given.size, "--device", given.device, "--steps", str(given.steps)]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-3000:], file=sys.stderr)
        return f"failed: {(done.stderr.strip().splitlines() or ['no word'])[-1][:200]}"
    return json.loads(done.stdout.splitlines()[-1])


def _trainings(names: list[str], folder: str, given: argparse.Namespace) -> None:
    if not names:
        return
    print(machine.table(["training", "tokens/s", "peak of the steps, GiB", "with loading", "planned", "target", "how"], []), end="")  # fmt: skip
    for name in names:
        found = child(name, folder, given)
        if isinstance(found, str):
            print(f"| {name} | {found} |  |  |  |  |  |", flush=True)
            continue
        *_, rate, gib = TRAININGS[name]
        target = f"{rate:,.0f} tokens/s: {'reached' if found['rate'] >= rate else 'missed'}" if rate else f"{gib} GiB: {'reached' if found['steps'] / GIB <= gib else 'missed'}" if gib else ""  # fmt: skip
        memory = " | ".join(f"{found[key] / GIB:.1f}" for key in ("steps", "whole", "planned"))
        print(f"| {name} | {found['rate']:,.0f} | {memory} | {target} | {found['how']} |", flush=True)


def base(name: str, folder: Path, given: argparse.Namespace) -> str:
    """Random bf16 weights made on the device, with a tokenizer of a few hundred words."""
    import torch
    from tests.conftest import build_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    build_tokenizer().save_pretrained(str(folder / "base"))
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES[given.size], pad_token_id=0, bos_token_id=0, eos_token_id=2)
    with torch.device(given.device):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(str(folder / "base"))
    return f"{sum(p.numel() for p in model.parameters()) / 1e9:.2f} B parameters"


def training(name: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Rate of real tokens, peaks in bytes, what was chosen."""
    import torch

    from retain.plan.memory import training_memory
    from retain.plan.shapes import read_shape
    from retain.train import speed
    from retain.train.config import TrainConfig
    from retain.train.rows import read_mixture
    from retain.train.work import train

    length, rows, settings, *_ = TRAININGS[name]
    config = TrainConfig(**{"device": given.device, "max_steps": given.steps, "batch_rows": rows, "micro_tokens": 4096, "resume": "never", "save_steps": given.steps + 1, "lora": {"dropout": 0}, **settings})  # fmt: skip
    mixture = _mixture(folder / f"rows-{length}-{rows}", length, rows, given)
    times, whole, on_gpu = [], [0], given.device != "cpu"

    def log(metrics: dict[str, float], step: int) -> None:
        if "train_loss_nats" in metrics:
            times.append(time.monotonic())
            if on_gpu and step == WARM:
                whole.append(torch.cuda.max_memory_allocated())
                torch.cuda.reset_peak_memory_stats()

    with tempfile.TemporaryDirectory() as out:
        result = train(config, mixture, folder / "base", Path(out) / "adapter", Path(out) / "checkpoints", log)
        card = json.loads((Path(out) / "adapter" / "retain.json").read_text(encoding="utf-8"))
    steps = torch.cuda.max_memory_allocated() if on_gpu else result.peak_memory_bytes
    planned = training_memory(read_shape(folder / "base"), speed.planned(config, read_mixture(mixture, longest=2**31).train, given.device)).peak  # fmt: skip
    rate = length * rows * (given.steps - WARM) / (times[-1] - times[WARM - 1])
    return {"rate": rate, "steps": steps, "whole": max(*whole, steps), "planned": planned, "how": "; ".join((*card["choices"], *result.warnings))}  # fmt: skip


def _mixture(folder: Path, length: int, rows: int, given: argparse.Namespace) -> Path:
    """Enough rows of ``length`` random tokens for two steps, the second half of each supervised."""
    import numpy as np

    from retain import artifacts

    if not folder.is_dir():
        tokens = np.random.default_rng(0).integers(3, SIZES[given.size]["vocab_size"], size=(2 * rows, length)).tolist()
        artifacts.write_rows(folder, "retain.mixture/1", (
            {"id": str(i), "source": "random", "part": "target", "split": "train", "weight": 1.0, "input_ids": ids, "labels": [-100] * (length // 2) + ids[length // 2 :], "n_supervised": length - length // 2}
            for i, ids in enumerate(tokens)
        ))  # fmt: skip
    return folder


def methods(name: str, folder: Path, given: argparse.Namespace) -> str:
    """The table method × family on this device (components/retain/train/METHODS.md), trained by its own test."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", given.device, "tests/retain/train/test_methods.py"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    failed = re.findall(r"^FAILED .*?\[(.*?)\]", done.stdout, re.MULTILINE)
    return (
        f"{(done.stdout.strip().splitlines() or ['nothing'])[-1]}{'; failed: ' + ', '.join(failed) if failed else ''}"
    )


def scorer(name: str, folder: Path, given: argparse.Namespace) -> str:
    """The suite core (the shipped benchmark items) on the random base."""
    from retain.score.config import ScoreConfig, TargetConfig, TaskSpec
    from retain.score.work import score

    config = ScoreConfig(tasks=[TaskSpec(name="core_tasks")], device=given.device, target=TargetConfig(metric="none"))
    result = score(config, folder / "base", folder / "scores")
    return f"{result.items} items in {result.seconds:.1f} s, {result.items / result.seconds:.0f} items/s (loading left out)"


# Beside the trainings; the scorer's and the methods' words stand below the table.
WORKS: dict[str, Callable[[str, Path, argparse.Namespace], Any]] = {"base": base, "methods on the device": methods, "scorer": scorer}  # fmt: skip

if __name__ == "__main__":
    main()
