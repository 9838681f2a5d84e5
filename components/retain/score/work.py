"""Score one model on the benchmarks and on the user's test rows, item by item."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from retain import models
from retain.artifacts import ITEM_SCHEMA, check_writable, write_scores
from retain.errors import ConfigError
from retain.gate.pairs import Scores
from retain.score.config import ScoreConfig
from retain.score.run import ENGINE, ENGINE_VERSION, Job, Records, Role, Run
from retain.score.shards import Shards


@dataclass(frozen=True)
class ScoreResult:
    """tasks: name → {metric, mean, n, chance, version, …}; cached: names that were not computed anew; seconds: of scoring.

    left: items that were not scored because the gate's rule had decided without them. signals: of forgetting, on general text;
    signals_left_out: why there are none, where general rows were given.
    """

    model_digest: str
    tasks: dict[str, dict[str, Any]]
    items: int
    truncated: int
    cached: list[str]
    seconds: float
    left: int = 0
    signals: Mapping[str, float] = field(default_factory=dict)
    signals_left_out: str = ""


Decided = Callable[[int, Scores], bool]


def score(
    config: ScoreConfig, model_dir: Path, scores: Path, *, dataset: Path | None = None, cache: Path | None = None, role: Role = "candidate",
    decided: Decided | None = None, base: Mapping[str, str] | None = None,
) -> ScoreResult:  # fmt: skip
    """Score ``model_dir`` and write ``scores``/{items.parquet, scores.json}.

    dataset: its rows of split `test` become the task `target` (unless target.metric is none). cache: finished tasks are
    kept there under their full key (model, items, settings, precision, device, batches, engine) and found again; with
    all of them found, no model is loaded. Without a cache they are kept beside the output until it is complete, so
    that a killed scoring goes on where it was. decided: asked after each round but the last (config.rounds) with its number
    and the scores so far; where it says yes, the other items are not scored. base: address, revision and digest of what a candidate was
    made from; both models' predictions on general rows of ``dataset`` are compared (retain.score.signals).
    """
    check_writable(scores)
    models.check_folder(model_dir)
    return complete(Run(config, model_dir, role), scores, dataset, cache, decided=decided, base=base)


def complete(
    run: Run, scores: Path, dataset: Path | None, cache: Path | None, *, model_digest: str = "", decided: Decided | None = None,
    base: Mapping[str, str] | None = None,
) -> ScoreResult:  # fmt: skip
    """Do what of ``run`` is not kept yet and write the scores, under another digest than the folder's where one is given.

    Where memory ran out on the way, everything is scored again at the budget that was found: one scoring, one budget.
    """
    kept = Shards(cache or scores / ".shards")
    run.recall(kept)
    start, named = time.monotonic(), model_digest or run.model_digest
    moved = (
        run.signals(kept, base, dataset) if base and dataset is not None else {}
    )  # first: what forbids it is then known at once
    done, meta = _rounds(run, kept, dataset, named, decided)
    while not run.held(kept):
        done, meta = _rounds(run, kept, dataset, named, decided)
    meta |= moved
    write_scores(scores, [row for _, rows, _, _ in done for row in rows], meta)
    if cache is None:
        shutil.rmtree(scores / ".shards")
    return _result(meta, done, time.monotonic() - start)


Done = tuple[Job, Records, dict[str, Any], bool]


def _rounds(
    run: Run, kept: Shards, dataset: Path | None, model_digest: str, decided: Decided | None
) -> tuple[list[Done], dict[str, Any]]:
    """(what was scored, scores.json): all rounds, or those up to the one after which the rule had decided."""
    planned = run.rounds(dataset)
    done = list[Done]()
    for number, jobs in enumerate(planned, 1):
        done += [(job, *_once(job, kept)) for job in jobs]
        meta = _meta(run, done, model_digest, planned[number:])
        if decided and number < len(planned) and decided(number, (_table(done), meta)):
            break
    return done, meta


def _table(done: Sequence[Done]) -> pa.Table:
    return pa.Table.from_pylist([row for _, rows, _, _ in done for row in rows], schema=ITEM_SCHEMA)


def _once(job: Job, kept: Shards) -> tuple[Records, dict[str, Any], bool]:
    """(records, facts, were they kept from before) of a job."""
    found = kept.get(job.key)
    if found is not None:
        return (*found, True)
    rows, facts = job.work()
    kept.put(job.key, rows, {**job.facts, **facts})
    return rows, {**job.facts, **facts}, False


def _meta(run: Run, done: Sequence[Done], model_digest: str, ahead: Sequence[Sequence[Job]]) -> dict[str, Any]:
    """scores.json; ``ahead``: the rounds that are not scored."""
    facts = [facts for _, _, facts, _ in done]
    return {
        "role": run.role, "model_digest": model_digest, "tokenizer_digest": run.tokenizer_digest,
        "template_digest": facts[0]["template_digest"], "engine": ENGINE, "engine_version": ENGINE_VERSION, "dtype": run.place.dtype,
        "device": run.place.kind, "batch_budget": min(fact["batch_budget"] for fact in facts), "max_length": facts[0]["max_length"],
        "attention": sorted({fact["attention"] for fact in facts}), "config": run.config.as_parameter(), "tasks": _per_task(done),
        "rounds": {"of": run.config.rounds, "done": run.config.rounds - len(ahead), "seed": run.config.rounds_seed, "items_left": sum(job.items for jobs in ahead for job in jobs)},
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
            **({"macro_f1": facts["macro_f1"]} if "macro_f1" in facts and len(parts) == 1 else {}),
        }  # fmt: skip
    return table


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


def _result(meta: Mapping[str, Any], done: Sequence[Done], seconds: float) -> ScoreResult:
    table, anew = meta["tasks"], {job.task for job, _, _, kept in done if not kept}
    return ScoreResult(
        meta["model_digest"], table, sum(task["n"] for task in table.values()), sum(task["truncated"] for task in table.values()),
        [name for name in table if name not in anew], seconds, meta["rounds"]["items_left"], meta.get("signals", {}), meta.get("signals_left_out", ""),
    )  # fmt: skip
