"""`retain plan`: does it fit, what does it cost, what will the gate see, what is to be expected. No GPU, no weights."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retain_pipelines.cli.common import Json, Recipe, Set, emit, flags

if TYPE_CHECKING:
    from retain.plan.work import Plan, RunFacts

GIB = 1024**3
TOKENS_PER_CHARACTER = 0.28  # English text under a vocabulary of 32k to 150k words


def plan(
    recipe: Recipe,
    mixture: Annotated[
        str, typer.Option(help="Folder written by mix, for exact counts; empty: estimated from the files.")
    ] = "",
    assume: Annotated[
        list[str] | None,
        typer.Option("--assume", help="An assumption of the planner, e.g. device=l4, queries=1e6 (again for more)."),
    ] = None,
    last: Annotated[str, typer.Option(help="verdict.json of the last run: its flip rates replace the prior.")] = "",
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Train 20 steps of the recipe on this machine first (needs --mixture): time and memory as measured.",
        ),
    ] = False,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Plan a run before anything is spent; a gate that could not conclude ends with exit 2."""
    from retain.plan.config import PlanConfig
    from retain.plan.gate import check
    from retain.plan.work import plan as make
    from retain.resolve.recipe import load
    from retain.resolve.work import benchmarks, resolve_base

    loaded = load(recipe, overrides)
    folder, _ = resolve_base(loaded)
    config = _config(PlanConfig, assume)
    planned = benchmarks(loaded, last)
    config, seen = _probed(config, loaded.train, mixture, folder) if probe else (config, 0)
    made = make(config, loaded.gate, loaded.train, folder, _facts(loaded, mixture), planned)
    emit({**asdict(made), "probed_bytes": seen}, json, _text(made, config.device, seen))
    check(made.gate)


def _probed(config: Any, train: Any, mixture: str, model_dir: Path) -> tuple[Any, int]:
    """(the assumptions with the measured rate, peak bytes above the imports) of 20 real steps."""
    import tempfile

    from retain.errors import UsageError
    from retain.plan.probe import probe

    if not mixture:
        raise UsageError("a probe trains on real rows", where="--probe", fix="add --mixture FOLDER, as mix wrote it")
    with tempfile.TemporaryDirectory(prefix="retain-probe-") as scratch:
        found = probe(train, Path(mixture), model_dir, Path(scratch))
    return config.model_copy(update={"tokens_per_second": found.tokens_per_second}), found.peak_bytes


def _config(kind: Any, assume: list[str] | None) -> Any:
    from retain.config import parse

    return parse(kind, flags(assume, ""), where="--assume")


def _facts(recipe: Any, mixture: str) -> "RunFacts":
    """Rows and tokens of one epoch: counted from a mixture, or estimated from the characters of the training files."""
    from retain.plan.work import RunFacts

    if mixture:
        from retain.artifacts import read_rows

        rows = [
            (len(r["input_ids"]), r["n_supervised"], r["part"])
            for r in read_rows(Path(mixture), "retain.mixture/1")
            if r["split"] == "train"
        ]
        tokens = sum(n for n, _, _ in rows)
        return RunFacts(
            len(rows),
            tokens,
            max(n for n, _, _ in rows),
            sum(s for _, s, _ in rows) / tokens,
            sum(n for n, _, p in rows if p == "replay") / tokens,
        )
    lengths = sorted(
        n for spec in recipe.data.datasets if spec.part == "target" and spec.split == "train" for n in _lengths(spec)
    )
    lengths = lengths[: max(1, int(0.99 * len(lengths)))]  # the odd giant is refused by validate
    tokens = int(sum(lengths) * TOKENS_PER_CHARACTER / (1 - recipe.data.replay.share))
    longest = min(int(lengths[-1] * TOKENS_PER_CHARACTER) + 1, recipe.data.template.max_seq_length)
    return RunFacts(len(lengths), tokens, longest, replay_share=recipe.data.replay.share)


def _lengths(spec: Any) -> list[int]:
    """Characters of each row's values."""
    from retain import uris
    from retain.tracking import home
    from retain.validate.read import records

    return [
        sum(len(str(value)) for value in row.values())
        for row in (record.value for record in records(uris.fetch(spec.path, home() / "files")))
        if isinstance(row, dict)
    ]


def _text(made: "Plan", device: str, seen: int) -> str:
    own = made.memory[made.method]
    gate = made.gate
    lines = [
        f"memory on {device} ({made.available / GIB:.0f} GiB): "
        + ", ".join(
            f"{name} {m.peak / GIB:.1f} GiB{'' if m.fits(made.available) else ' (does not fit)'}"
            for name, m in made.memory.items()
        ),
        f"  {made.method}: "
        + ", ".join(f"{part} {size / GIB:.2f}" for part, size in own.parts.items() if size > 0.005 * GIB)
        + f" GiB; the peak is in the {own.moment}",
        *([f"  20 steps here took {seen / GIB:.2f} GiB above the imports"] if seen else []),
        f"time     {made.cost.seconds / 60:.1f} min for {made.cost.tokens:,} tokens at {made.cost.tokens_per_second:,.0f} tokens/s ({made.cost.source})",
        f"money    {made.cost.price:.2f} USD, {made.cost.device_hours:.2f} device hours; pays for itself after {made.break_even:,.0f} queries",
        f"forgets  {made.forgetting.low:.3f} to {made.forgetting.high:.3f} nats a token are to be expected ({made.forgetting.why})",
        f"gate     {gate.word}: an unharmed model passes in {100 * gate.power:.0f} % of runs; smallest average drop it can see {gate.detectable_points:g} points",
        f"         95 % would take a margin of {gate.margin_for_unharmed:g} points, 80 % {gate.items_needed} items a benchmark",
        *(
            f"         {row['name']:<20} {row['tier']:<10} {row['n']:>6} items, flips {100 * row['flip_rate']:.0f} %, alone it sees {row['detectable_points']:g} points"
            for row in gate.rows
        ),
        *(f"         {note}" for note in gate.notes),
        f"advice   {made.advice.way}: " + "; ".join(made.advice.reasons),
    ]
    return "\n".join(lines)


VERBS: dict[Callable[..., None], str] = {plan: "retain plan quickstart --assume device=cpu"}
