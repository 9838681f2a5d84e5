"""Score one model on the benchmarks and on the user's test rows, item by item."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from retain import digest, models
from retain.artifacts import check_writable, write_scores
from retain.errors import ConfigError
from retain.progress import Progress
from retain.score import place, tasks
from retain.score.config import TARGET_TASK, ScoreConfig
from retain.score.shards import Shards

if TYPE_CHECKING:
    from retain.score.lm import Engine
    from retain.score.target import TargetRow
    from retain.score.tasks import Leaf

Role = Literal["base", "candidate"]
ENGINE, ENGINE_VERSION = "retain", "1"
Records = list[dict[str, Any]]


@dataclass(frozen=True)
class ScoreResult:
    """tasks: name → {metric, mean, n, chance, version, …}; cached: names that were not computed anew; seconds: of scoring."""

    model_digest: str
    tasks: dict[str, dict[str, Any]]
    items: int
    truncated: int
    cached: list[str]
    seconds: float


def score(
    config: ScoreConfig, model_dir: Path, scores: Path, *, dataset: Path | None = None, cache: Path | None = None, role: Role = "candidate",
) -> ScoreResult:  # fmt: skip
    """Score ``model_dir`` and write ``scores``/{items.parquet, scores.json}.

    dataset: its rows of split `test` become the task `target` (unless target.metric is none). cache: finished tasks are
    kept there under their full key (model, items, settings, precision, device, batches, engine) and found again; with
    all of them found, no model is loaded. Without a cache they are kept beside the output until it is complete, so
    that a killed scoring goes on where it was.
    """
    check_writable(scores)
    models.check_folder(model_dir)
    run = Run(config, model_dir, role)
    jobs = run.jobs(dataset)
    kept = Shards(cache or scores / ".shards")
    start = time.monotonic()
    done = [(job, *_once(job, kept)) for job in jobs]
    meta = run.meta(done)
    write_scores(scores, [row for _, rows, _, _ in done for row in rows], meta)
    if cache is None:
        shutil.rmtree(scores / ".shards")
    return _result(meta, done, time.monotonic() - start)


@dataclass(frozen=True)
class Job:
    """One leaf task or the target rows: `key` names the result, `work` computes (records, facts about them)."""

    task: str
    label: str
    key: dict[str, Any]
    facts: dict[str, Any]
    work: Callable[[], tuple[Records, dict[str, Any]]]


Done = tuple[Job, Records, dict[str, Any], bool]


def _once(job: Job, kept: Shards) -> tuple[Records, dict[str, Any], bool]:
    """(records, facts, were they kept from before) of a job."""
    found = kept.get(job.key)
    if found is not None:
        return (*found, True)
    rows, facts = job.work()
    kept.put(job.key, rows, {**job.facts, **facts})
    return rows, {**job.facts, **facts}, False


class Run:
    """One model under one configuration; the model is loaded when the first job needs it."""

    def __init__(self, config: ScoreConfig, model_dir: Path, role: Role) -> None:
        self.config, self.model_dir, self.role = config, model_dir, role
        self.place = place.resolve(config)
        self.model_digest = digest.of_model(model_dir)
        self.tokenizer_digest = digest.of_tokenizer(model_dir)

    def jobs(self, dataset: Path | None) -> list[Job]:
        jobs = [self._benchmark(leaf) for leaf in tasks.load(self.config)]
        if dataset is not None and self.config.target.metric != "none":
            from retain.score import target

            jobs.append(self._target(target.read(dataset, self.config.target.limit)))
        if not jobs:
            raise ConfigError("there is nothing to score", where="score.tasks", fix="name at least one benchmark, or give a dataset with test rows")  # fmt: skip
        return jobs

    @cached_property
    def engine(self) -> "Engine":
        from transformers.utils import logging as quieter

        from retain.score.lm import Engine

        quieter.disable_progress_bar()
        model = models.load_model(self.model_dir, dtype=self.place.dtype, device=self.place.device)
        return Engine(
            model, models.load_tokenizer(self.model_dir), max_length=self.config.max_length, batch_tokens=self.place.budget,
            attention=self.config.attention, template_kwargs=self.config.template_kwargs,
        )  # fmt: skip

    # ------------------------------------------------------------------ what is asked
    def _benchmark(self, leaf: "Leaf") -> Job:
        from retain.score import records

        config = self.config
        items = [[leaf.doc_id(number), tasks.doc_hash(doc)] for number, doc in leaf.docs()]
        key = {
            **self._key(), "task": leaf.benchmark, "stratum": leaf.stratum, "version": leaf.version, "items": digest.of_json(items),
            "definition": tasks.definition(leaf), "num_fewshot": leaf.num_fewshot, "fewshot_seed": leaf.spec.seed, "lm_eval": version("lm_eval"),
            "chat": config.apply_chat_template, "multiturn": config.fewshot_as_multiturn, "system_text": config.system_text,
        }  # fmt: skip
        facts = {"version": leaf.version, "num_fewshot": leaf.num_fewshot, "fewshot_seed": leaf.spec.seed}
        label = leaf.stratum or leaf.benchmark

        def work() -> tuple[Records, dict[str, Any]]:
            rows = list(self._asked(leaf, label))
            return rows, self._facts()

        return Job(leaf.benchmark, label, key, {**facts, "metric": records.primary(leaf)}, work)

    def _asked(self, leaf: "Leaf", label: str) -> Iterator[dict[str, Any]]:
        from retain.score import records

        engine = self.engine
        requests = tasks.build_requests(leaf, self.config, engine.apply_chat_template, engine.tokenizer_name)
        n_docs = len({request.doc_id for request in requests})
        with self._shown(label, n_docs, len(requests)):
            tasks.answer(engine, requests)
        return records.of_leaf(leaf, engine.truncated)

    def _target(self, rows: "Sequence[TargetRow]") -> Job:
        from retain.score import target

        config = self.config.target
        key = {**self._key(), "task": TARGET_TASK, "version": target.VERSION, "items": digest.of_json([[r.id, r.sha] for r in rows]), "target": config.as_parameter(), "prompt_completion": self.config.prompt_completion}  # fmt: skip

        def work() -> tuple[Records, dict[str, Any]]:
            with self._shown(TARGET_TASK, len(rows), len(rows)):
                found, more = target.score(self.engine, rows, self.config)
            return found, {**self._facts(), **more}

        facts = {"version": target.VERSION, "num_fewshot": 0, "fewshot_seed": 0, "metric": config.metric}
        return Job(TARGET_TASK, TARGET_TASK, key, facts, work)

    def _key(self) -> dict[str, Any]:
        """What every number depends on, whatever the task (gate.md, Hygiene). The template is in the tokenizer's digest."""
        return {
            "model_digest": self.model_digest, "tokenizer_digest": self.tokenizer_digest, "dtype": self.place.dtype, "device": self.place.kind,
            "batch_budget": self.place.budget, "max_length": self.config.max_length, "attention": self.config.attention,
            "template_kwargs": self.config.template_kwargs, "engine": ENGINE, "engine_version": ENGINE_VERSION,
        }  # fmt: skip

    def _facts(self) -> dict[str, Any]:
        """What only a loaded model can say; kept with the records, so that a full cache needs none."""
        from retain import chat

        engine = self.engine
        return {
            "template_digest": chat.template_digest(engine.tokenizer, self.config.template_kwargs), "batch_budget": engine.scorer.budget,
            "attention": "tree" if engine.scorer.tree else "plain", "max_length": engine.max_length,
        }  # fmt: skip

    @contextmanager
    def _shown(self, label: str, items: int, requests: int) -> Iterator[None]:
        """A progress bar in items, fed with requests by the engine."""
        seen = 0
        with Progress(f"score {self.role} {label}", total=items, unit="items") as progress:

            def done(count: int) -> None:
                nonlocal seen
                seen = min(seen + count, requests)
                progress.advance(items * seen // requests - progress.done)

            self.engine.done = done
            yield

    # ------------------------------------------------------------------ what is written
    def meta(self, done: Sequence[Done]) -> dict[str, Any]:
        facts = [facts for _, _, facts, _ in done]
        return {
            "role": self.role, "model_digest": self.model_digest, "tokenizer_digest": self.tokenizer_digest,
            "template_digest": facts[0]["template_digest"], "engine": ENGINE, "engine_version": ENGINE_VERSION, "dtype": self.place.dtype,
            "device": self.place.kind, "batch_budget": min(fact["batch_budget"] for fact in facts), "max_length": facts[0]["max_length"],
            "attention": sorted({fact["attention"] for fact in facts}), "config": self.config.as_parameter(), "tasks": _per_task(done),
        }  # fmt: skip


def _per_task(done: Sequence[Done]) -> dict[str, dict[str, Any]]:
    """Benchmark → its facts over all its leaves; `metrics` are the means of every metric, `mean` that of the primary one."""
    table: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(job.task for job, *_ in done):
        parts = [(rows, facts) for job, rows, facts, _ in done if job.task == name]
        facts, rows = parts[0][1], [row for rows, _ in parts for row in rows]
        means = {
            metric: _mean([r["value"] for r in rows if r["metric"] == metric])
            for metric in sorted({r["metric"] for r in rows})
        }
        if facts["metric"] not in means:
            raise ConfigError(
                "this metric has no value per item",
                where=f"task {name}",
                got=facts["metric"],
                expected=", ".join(means),
            )
        main = [row for row in rows if row["metric"] == facts["metric"]]
        table[name] = {
            **{k: facts[k] for k in ("version", "num_fewshot", "fewshot_seed", "metric")}, "n": len(main), "mean": means[facts["metric"]],
            "chance": _mean([row["chance"] for row in main]), "metrics": means, "truncated": sum(row["truncated"] for row in main),
            **({"macro_f1": facts["macro_f1"]} if "macro_f1" in facts else {}),
        }  # fmt: skip
    return table


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


def _result(meta: Mapping[str, Any], done: Sequence[Done], seconds: float) -> ScoreResult:
    table, anew = meta["tasks"], {job.task for job, _, _, kept in done if not kept}
    return ScoreResult(
        meta["model_digest"], table, sum(task["n"] for task in table.values()), sum(task["truncated"] for task in table.values()),
        [name for name in table if name not in anew], seconds,
    )  # fmt: skip
