"""S1 to S4: our scorer beside lm-eval's `hf` backend, in one process on one machine, as a Markdown table for EVIDENCE.md.

    python tests/bench/bench_score.py [--model DIR] [--tasks arc_easy,hellaswag] [--limit 200] [--dtype bf16,fp32] [--device cpu]

The tasks are those of tests/bench/tasks over public data files (RETAIN_DATA names their folder). Both sides get the same
lm-eval requests, the same loaded weights and the same thread count. Runs alternate and the fastest of each side counts; CPU seconds stand
beside wall seconds, since on a busy machine only the former compare. Loading is left out of S1 and S2 and part of S3.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retain import models
from retain.score import tasks
from retain.score.config import ScoreConfig, TargetConfig, TaskSpec
from retain.score.lm import Engine
from retain.score.place import BATCH_TOKENS
from retain.score.preview import Preview

HERE = Path(__file__).parent
BATCHES = (1, 8, 32)
# Examples fixed for all items of a task (as MMLU has them), and drawn anew for each item: of those nothing can be shared.
KINDS: tuple[tuple[int, str, Literal["task", "first"]], ...] = (
    (0, "S1", "first"),
    (5, "S2", "first"),
    (5, "S2", "task"),
)
DRAWN = {"first": " fixed", "task": " drawn"}
FLOOR = {"S1": 2.5, "S2": 8.0, "S3": 2.5, "S3 cached": 5.0}


@dataclass(frozen=True)
class Timed:
    wall: float
    cpu: float
    answers: Any


def timed(work: Callable[[], Any]) -> Timed:
    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):
        answers = work()
    return Timed(time.perf_counter() - wall, time.process_time() - cpu, answers)


def requests(task: str, limit: int, shots: int, fewshot: Literal["task", "first"] = "first") -> list[Any]:
    spec = TaskSpec(name=task, limit=limit, num_fewshot=shots, fewshot=fewshot)
    config = ScoreConfig(tasks=[spec], include_path=[str(HERE / "tasks")])
    return tasks.build_requests(tasks.load(config)[0], config, None, "")


def sides(
    model: Any, tokenizer: Any, asked: list[Any], batches: tuple[int, ...], repeats: int
) -> tuple[dict[str, Timed], Timed]:
    """(lm-eval at each batch size, ours): the fastest CPU time of `repeats` alternating runs each."""
    from lm_eval.models.huggingface import HFLM

    def theirs(size: int) -> Any:
        return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size).loglikelihood(asked, disable_tqdm=True)

    def ours() -> Any:
        return Engine(model, tokenizer, batch_tokens=BATCH_TOKENS[model.device.type]).loglikelihood(asked)

    best: dict[str, Timed] = {}
    for _ in range(repeats):
        for name, work in {
            "ours": ours,
            **{f"batch {size}": lambda size=size: theirs(size) for size in batches},
        }.items():
            run = timed(work)
            best[name] = min(best.get(name, run), run, key=lambda r: r.cpu if model.device.type == "cpu" else r.wall)
    mine = best.pop("ours")
    return best, mine


def agreement(asked: list[Any], ours: Any, theirs: Any) -> tuple[float, int, int]:
    """(largest difference of a log-likelihood in nats, items whose best choice differs, items)."""
    by_item: dict[Any, list[tuple[float, float]]] = {}
    for request, one, two in zip(asked, ours, theirs, strict=True):
        by_item.setdefault(request.doc_id, []).append((one[0], two[0]))
    apart = max(abs(a - b) for pairs in by_item.values() for a, b in pairs)
    other = sum(
        max(range(len(p)), key=lambda i: p[i][0]) != max(range(len(p)), key=lambda i: p[i][1]) for p in by_item.values()
    )
    return apart, other, len(by_item)


def row(name: str, what: str, theirs: Timed, ours: Timed, note: str) -> None:
    """One line of the table; the verdict is on wall time, CPU time stands beside it for a machine that is not quiet."""
    floor, ratio = FLOOR[name], theirs.wall / ours.wall
    cells = [
        name, what, f"{theirs.wall:.1f} ({theirs.cpu:.1f})", f"{ours.wall:.1f} ({ours.cpu:.1f})", f"**{ratio:.2f}×** ({theirs.cpu / ours.cpu:.2f}×)",
        f"{floor:g}× {'reached' if ratio >= floor else 'missed'}", note,
    ]  # fmt: skip
    print("| " + " | ".join(cells) + " |", flush=True)


def head(arguments: argparse.Namespace) -> None:
    """Machine, commit and versions, then the table's head."""
    import platform
    import subprocess

    import lm_eval
    import torch
    import transformers

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()  # fmt: skip
    device = torch.cuda.get_device_name(0) if arguments.device.startswith("cuda") else f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"  # fmt: skip
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{arguments.model.name}, {platform.machine()}, {device}{load}; commit {commit}; torch {torch.__version__}, transformers {transformers.__version__}, lm-eval {lm_eval.__version__}.\n")  # fmt: skip
    print("| | what | lm-eval, s (CPU s) | retain, s (CPU s) | ratio (CPU) | must | agreement |\n|---|---|---|---|---|---|---|", flush=True)  # fmt: skip


def scoring(arguments: argparse.Namespace, dtype: str) -> None:
    tokenizer = models.load_tokenizer(arguments.model)
    model = models.load_model(arguments.model, dtype=dtype, device=arguments.device)
    for task in arguments.tasks:
        for shots, name, fewshot in KINDS:
            asked = requests(task, arguments.limit_shots if shots else arguments.limit, shots, fewshot)
            theirs, ours = sides(model, tokenizer, asked, arguments.batches, arguments.repeats)
            fastest = min(theirs, key=lambda size: theirs[size].cpu)
            apart, other, items = agreement(asked, ours.answers, theirs[fastest].answers)
            own = agreement(
                asked, theirs[f"batch {arguments.batches[0]}"].answers, theirs[f"batch {arguments.batches[-1]}"].answers
            )
            note = f"S4: {apart:.2g} nats apart, {other}/{items} choices differ (lm-eval with itself {own[0]:.2g}, {own[1]}); {fastest}"
            row(
                name,
                f"{task} {shots}-shot{DRAWN[fewshot] if shots else ''} {dtype} n={items}",
                theirs[fastest],
                ours,
                note,
            )


def adapter_of(model_dir: Path, folder: Path) -> Path:
    """A LoRA with small random weights on every linear layer."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    settings = LoraConfig(r=8, target_modules="all-linear", init_lora_weights="gaussian")
    wrapped = get_peft_model(models.load_model(model_dir, dtype="bf16"), settings)
    for name, value in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.01)
    wrapped.save_pretrained(str(folder))
    return folder


def both(arguments: argparse.Namespace, dtype: str) -> None:
    """S3, loading included: two lm-eval runs (base, base with the adapter) against one load of ours, then with the baseline kept."""
    from lm_eval.models.huggingface import HFLM
    from peft import PeftModel

    task = arguments.tasks[0]
    asked = requests(task, arguments.limit, 0)
    config = ScoreConfig(
        tasks=[TaskSpec(name=task, limit=arguments.limit)], include_path=[str(HERE / "tasks")], dtype=dtype, device=arguments.device,
        target=TargetConfig(metric="none"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        adapter = adapter_of(arguments.model, folder / "adapter")

        def theirs() -> None:
            for with_adapter in (False, True):
                model = models.load_model(arguments.model, dtype=dtype, device=arguments.device)
                model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload() if with_adapter else model
                HFLM(
                    pretrained=model, tokenizer=models.load_tokenizer(arguments.model), batch_size=arguments.batches[-1]
                ).loglikelihood(asked, disable_tqdm=True)

        def ours() -> None:
            preview = Preview(config, arguments.model, adapter, cache=folder / "cache")
            preview.base(folder / "base")
            preview.tuned(folder / "tuned")

        def warm() -> None:
            preview = Preview(config, arguments.model, adapter, cache=folder / "cache")
            preview.base(folder / "base")
            preview.tuned(folder / "tuned", strength=0.999)

        slow, fast, cached = timed(theirs), timed(ours), timed(warm)
        row("S3", f"{task} 0-shot {dtype}", slow, fast, "base and adapter, loading included")
        row("S3 cached", f"{task} 0-shot {dtype}", slow, cached, "the baseline's scores known from before")


def shipped() -> Path:
    """The base of the shipped recipe, fetched once."""
    from retain import uris
    from retain.resolve.recipe import load
    from retain.tracking import home

    return uris.resolve_base(load("quickstart").model.base_model, "", home() / "bases")[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="folder of a model; empty: the shipped example's base")
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=["arc_easy", "hellaswag"])
    parser.add_argument("--limit", type=int, default=100, help="items at 0 shots")
    parser.add_argument("--limit-shots", type=int, default=24, help="items with examples")
    parser.add_argument("--dtype", type=lambda text: text.split(","), default=["bf16", "fp32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=lambda text: tuple(map(int, text.split(","))), default=BATCHES)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    if not Path(os.environ.get("RETAIN_DATA") or HERE.parents[2] / "shared" / "data").is_dir():
        print("SKIPPED: no benchmark data; set RETAIN_DATA to their folder", file=sys.stderr)
        return 0
    arguments.model = arguments.model or shipped()
    head(arguments)
    for dtype in arguments.dtype:
        scoring(arguments, dtype)
        both(arguments, dtype)
    return 0


if __name__ == "__main__":
    sys.exit(main())
