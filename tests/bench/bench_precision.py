"""S4's noise floor: how far bf16 takes our scorer, and lm-eval's `hf` at each batch size, from lm-eval's own answers in fp32.

    python tests/bench/bench_precision.py [--model DIR] [--items 100] [--batches 1,8,16]

The weights are the same on all sides (bf16 ones, computed in bf16 or fp32), and so are the requests. A choice is the answer with the
highest log-likelihood. The first table holds each side against fp32, the second counts the items on which two sides choose differently.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench_score
import machine
import numpy as np

TASKS = ("arc_easy", "hellaswag")
TRUTH = "lm-eval fp32"


def sides(model: Path, asked: Sequence[Any], batches: Sequence[int], device: str) -> dict[str, np.ndarray]:
    """Name → log-likelihoods in nats, one a request."""
    whole = bench_score.Sides(model, "fp32", device)
    found = {TRUTH: _values(whole.theirs(asked, 1)), "retain fp32": _values(whole.ours(asked))}
    del whole
    half = bench_score.Sides(model, "bf16", device)
    found["retain bf16"] = _values(half.ours(asked))
    return found | {f"lm-eval bf16, batch {size}": _values(half.theirs(asked, size)) for size in batches}


def _values(answers: Sequence[tuple[float, bool]]) -> np.ndarray:
    return np.array([value for value, _greedy in answers])


def choices(asked: Sequence[Any], values: np.ndarray) -> np.ndarray:
    """The best answer's number, one an item."""
    items = np.array([request.doc_id for request in asked])
    return np.array([values[items == item].argmax() for item in dict.fromkeys(items.tolist())])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="folder of a model; empty: the shipped example's base")
    parser.add_argument("--items", type=int, default=100, help="items of each task")
    parser.add_argument("--batches", type=lambda text: [int(size) for size in text.split(",")], default=[1, 8, 16])
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if not machine.DATA.is_dir():
        print("SKIPPED: no benchmark data; set RETAIN_DATA to their folder", file=sys.stderr)
        return 0
    model = arguments.model or bench_score.shipped()
    print(machine.line(model.name, ["torch", "transformers", "lm_eval"]))
    for task in TASKS:
        asked = bench_score.requests(task, arguments.items, 0)
        found = sides(model, asked, arguments.batches, arguments.device)
        print(report(task, asked, found), flush=True)
    return 0


def report(task: str, asked: Sequence[Any], found: dict[str, np.ndarray]) -> str:
    """Both tables, Markdown."""
    chosen = {name: choices(asked, values) for name, values in found.items()}
    others = [name for name in found if name != TRUTH]
    n = len(chosen[TRUTH])
    apart = {name: np.abs(found[name] - found[TRUTH]) for name in others}
    rows = [[name, f"{apart[name].mean():.3g}", f"{np.sqrt((apart[name] ** 2).mean()):.3g}", f"{apart[name].max():.3g}",
             f"{(found[name] - found[TRUTH]).mean():+.3g}", f"{(chosen[name] != chosen[TRUTH]).sum()} ({(chosen[name] != chosen[TRUTH]).mean():.1%})"] for name in others]  # fmt: skip
    pairs = [[name, *(str((chosen[name] != chosen[other]).sum()) for other in others)] for name in others]
    return (
        machine.table([f"{task}, {n} items, from {TRUTH}", "mean, nats", "root of mean square", "most", "bias", "choices that differ"], rows)
        + "\n"
        + machine.table([f"choices that differ of {n}", *others], pairs)
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
