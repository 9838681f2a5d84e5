"""S1 to S4: our scorer beside lm-eval's `hf` backend, in one process on one machine, as a Markdown table for EVIDENCE.md.

    python tests/bench/bench_score.py [--model DIR] [--dtype bf16,fp32] [--items 200] [--items-shots 48] [--device cpu]

The tasks are those of tests/bench/tasks over public data files (RETAIN_DATA names their folder). Both sides get the same
lm-eval requests, the same weights in the same precision and the same threads. lm-eval runs at the batch size that is fastest on a
quarter of the items; then both sides alternate on all of them and the fastest run of each counts. Loading is left out of S1
and S2 and is part of S3. CPU seconds stand beside wall seconds: on a busy machine only they can be compared.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import machine

from retain import models
from retain.score import place, tasks
from retain.score.config import ScoreConfig, TargetConfig, TaskSpec
from retain.score.lm import Engine
from retain.score.preview import Preview
from retain.score.run import load_engine

HERE = Path(__file__).parent
# On a CPU `auto` takes its upper bound of 64 wherever memory suffices, after minutes of trying; 1 and 16 are S4's measure.
BATCHES: dict[str, tuple[int | str, ...]] = {"cpu": (1, 8, 16, 32, 64), "cuda": (1, 8, 16, 32, "auto")}
SELF = (1, 16)
Fewshot = Literal["task", "first"]
FLOOR = {"S1": 2.5, "S2": 8.0, "S3": 2.5, "S3 cached": 5.0}
# What is asked: the task, examples before each item, and whether they are fixed (as MMLU has them) or drawn anew for each item.
ASKED: tuple[tuple[str, str, int, Fewshot], ...] = (
    ("S1", "arc_easy", 0, "first"), ("S1", "hellaswag", 0, "first"), ("S2", "arc_easy", 5, "first"), ("S2", "hellaswag", 5, "first"),
    ("S2 drawn", "arc_easy", 5, "task"),
)  # fmt: skip


@dataclass(frozen=True)
class Timed:
    wall: float
    cpu: float
    answers: Any


def timed(work: Callable[[], Any]) -> Timed:
    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        answers = work()
    return Timed(time.perf_counter() - wall, time.process_time() - cpu, answers)


def alternating(repeats: int, *works: Callable[[], Any]) -> list[Timed]:
    """The fastest run of each, in turns."""
    runs = [[timed(work) for work in works] for _ in range(repeats)]
    return [min(column, key=lambda run: run.wall) for column in zip(*runs, strict=True)]


def requests(task: str, limit: int, shots: int, fewshot: Fewshot = "first") -> list[Any]:
    spec = TaskSpec(name=task, limit=limit, num_fewshot=shots, fewshot=fewshot)
    config = ScoreConfig(tasks=[spec], include_path=[str(HERE / "tasks")])
    return tasks.build_requests(tasks.load(config)[0], config, None, "")


def first(asked: Sequence[Any], items: int) -> list[Any]:
    return [request for request in asked if request.doc_id < asked[0].doc_id + items]


class Sides:
    """Both scorers over one loaded model."""

    def __init__(self, folder: Path, dtype: str, device: str) -> None:
        config = ScoreConfig(dtype=dtype, device=device)
        self.tokenizer, self.model = (
            models.load_tokenizer(folder),
            models.load_model(folder, dtype=dtype, device=device),
        )
        self.own = load_engine(config, folder, place.resolve(config)).model
        self.batches = BATCHES[device.split(":")[0]]
        self.best: int | str = self.batches[1]

    def theirs(self, asked: Sequence[Any], size: int | str) -> Any:
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=self.model, tokenizer=self.tokenizer, batch_size=size).loglikelihood(list(asked), disable_tqdm=True)  # fmt: skip

    def ours(self, asked: Sequence[Any]) -> Any:
        return Engine(self.own, self.tokenizer, batch_tokens=place.BATCH_TOKENS[self.own.device.type]).loglikelihood(
            asked
        )

    def operations(self, asked: Sequence[Any], size: int | str) -> float:
        """How many times as many multiplications lm-eval's batches of ``size`` take (padding and its output layer at every token included)."""
        if not isinstance(size, int):
            return float("nan")
        engine = Engine(self.own, self.tokenizer, batch_tokens=place.BATCH_TOKENS[self.own.device.type])
        found = engine._encoded(asked)
        head = self.model.get_output_embeddings().weight.numel()
        trunk = sum(p.numel() for p in self.model.parameters()) - self.model.get_input_embeddings().weight.numel()
        trunk -= 0 if self.model.config.tie_word_embeddings else head
        lengths = sorted((len(request.inputs(engine.max_length)) for request in found), reverse=True)
        theirs = sum(lengths[i] * len(lengths[i : i + size]) for i in range(0, len(lengths), size)) * (trunk + head)
        batches = engine.scorer.plan(found).batches
        ours = sum(len(batch) * max(len(row.tokens) for row in batch) for batch in batches) * trunk
        return theirs / (ours + sum(row.n_scored for batch in batches for row in batch) * head)

    def choose(self, asked: Sequence[Any]) -> dict[int | str, Timed]:
        """lm-eval at every batch size; the fastest is remembered."""
        tried = {size: timed(lambda size=size: self.theirs(asked, size)) for size in self.batches}
        self.best = min(tried, key=lambda size: tried[size].wall)
        return tried


def agreement(asked: Sequence[Any], ours: Any, theirs: Any) -> tuple[float, int, int]:
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
    """One line of the table; the verdict is on wall time."""
    ratio, floor = theirs.wall / ours.wall, FLOOR.get(name)
    cells = [
        name, what, f"{theirs.wall:.1f} ({theirs.cpu:.1f})", f"{ours.wall:.1f} ({ours.cpu:.1f})", f"**{ratio:.2f}×** ({theirs.cpu / ours.cpu:.2f}×)",
        f"{floor:g}× {'reached' if ratio >= floor else 'missed'}" if floor else "–", note,
    ]  # fmt: skip
    print("| " + " | ".join(cells) + " |", flush=True)


def head(arguments: argparse.Namespace) -> None:
    """Machine, commit and versions, then the table's head."""
    import torch

    gpu = f" on {torch.cuda.get_device_name(0)}" if arguments.device.startswith("cuda") else ""
    print(machine.line(f"{arguments.model.name}{gpu}", ["torch", "transformers", "lm_eval"]))
    print("| | what | lm-eval, s (CPU s) | retain, s (CPU s) | ratio (CPU) | must | agreement (S4) |\n|---|---|---|---|---|---|---|", flush=True)  # fmt: skip


def scoring(arguments: argparse.Namespace, dtype: str) -> int | str:
    """S1, S2 and S4; what batch size lm-eval was fastest at on the first task."""
    sides = Sides(arguments.model, dtype, arguments.device)
    sizes = []
    for name, task, shots, fewshot in ASKED:
        items = arguments.items_shots if shots else arguments.items
        # The examples are the first items of the same file here; as where they have a split of their own, they are not asked themselves.
        asked = [request for request in requests(task, items + shots, shots, fewshot) if request.doc_id >= shots]
        tried = sides.choose(first(asked, max(items // 4, 4)))
        theirs, ours = alternating(arguments.repeats, lambda asked=asked: sides.theirs(asked, sides.best), lambda asked=asked: sides.ours(asked))  # fmt: skip
        apart, other, count = agreement(asked, ours.answers, theirs.answers)
        few = first(asked, max(items // 4, 4))
        own = agreement(few, tried[SELF[0]].answers, tried[SELF[1]].answers)
        note = f"{apart:.2g} nats apart, {other}/{count} choices differ (lm-eval with itself at batch 1 and 16: {own[0]:.2g}, {own[1]}/{own[2]}); batch {sides.best}; {sides.operations(asked, sides.best):.2f}× as many operations"
        what = f"{task} {shots}-shot{' fixed' if shots and fewshot == 'first' else ''} {dtype} n={count}"
        row(name, what, theirs, ours, note)
        sizes.append(sides.best)
    return sizes[0]


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


def both(arguments: argparse.Namespace, dtype: str, size: int | str) -> None:
    """S3, loading and requests included: two lm-eval runs (base, merged adapter) against one load of ours, then with the baseline kept."""
    from lm_eval.models.huggingface import HFLM
    from peft import PeftModel

    task = ASKED[0][1]
    spec = TaskSpec(name=task, limit=arguments.items, num_fewshot=0)
    config = ScoreConfig(tasks=[spec], include_path=[str(HERE / "tasks")], dtype=dtype, device=arguments.device, target=TargetConfig(metric="none"))  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        adapter = adapter_of(arguments.model, folder / "adapter")

        def theirs() -> None:
            for with_adapter in (False, True):
                model = models.load_model(arguments.model, dtype=dtype, device=arguments.device)
                model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload() if with_adapter else model
                lm = HFLM(pretrained=model, tokenizer=models.load_tokenizer(arguments.model), batch_size=size)
                lm.loglikelihood(requests(task, arguments.items, 0), disable_tqdm=True)

        def ours(cache: Path) -> None:
            preview = Preview(config, arguments.model, adapter, cache=cache)
            preview.base(folder / "base")
            preview.tuned(folder / "tuned")

        slow = timed(theirs)
        fresh = min((timed(lambda k=k: ours(folder / f"cache{k}")) for k in range(arguments.repeats)), key=lambda run: run.wall)  # fmt: skip
        for kept in (folder / "cache0").glob("*.json"):
            if '"adapter"' in kept.read_text():
                kept.unlink()
        cached = timed(lambda: ours(folder / "cache0"))
        row("S3", f"{task} 0-shot {dtype} n={arguments.items}", slow, fresh, "base and adapter, loading included")
        row("S3 cached", f"{task} 0-shot {dtype} n={arguments.items}", slow, cached, "the baseline's scores known from before")  # fmt: skip


def shipped() -> Path:
    """The base of the shipped recipe, fetched once."""
    from retain import uris
    from retain.resolve.recipe import load
    from retain.tracking import home

    return uris.resolve_base(load("quickstart").model.base_model, "", home() / "bases")[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="folder of a model; empty: the shipped example's base")
    parser.add_argument("--items", type=int, default=200, help="items at 0 shots")
    parser.add_argument("--items-shots", type=int, default=48, help="items with examples")
    parser.add_argument("--dtype", type=lambda text: text.split(","), default=["bf16", "fp32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    if not machine.DATA.is_dir():
        print("SKIPPED: no benchmark data; set RETAIN_DATA to their folder", file=sys.stderr)
        return 0
    arguments.model = arguments.model or shipped()
    head(arguments)
    for dtype in arguments.dtype:
        both(arguments, dtype, scoring(arguments, dtype))
    return 0


if __name__ == "__main__":
    sys.exit(main())
