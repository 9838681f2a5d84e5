"""What the command line opens: a registered model and a file of fresh labelled rows in, what became of its gain out."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retain import digest, uris
from retain.artifacts import read_scores, write_json
from retain.config import parse
from retain.drift.config import DriftConfig
from retain.drift.work import Drift, at_promotion, compare, published_verdict
from retain.errors import IntegrityError, UsageError
from retain.publish.versions import Version, open_registry
from retain.resolve.recipe import Recipe
from retain.resolve.work import resolve_base
from retain.score.config import ScoreConfig
from retain.score.work import score
from retain.steps import running, say
from retain.tracking import home, stage
from retain.validate.config import DatasetSpec
from retain.validate.work import validate

SENTENCE = {
    "pass": "as good as it was",
    "regressed": "it lost part of its gain: train again",
    "inconclusive": "too few rows to tell",
}


def run(settings: Mapping[str, Any], recipe: Recipe, name: str, alias: str, rows: str, out: str) -> dict[str, Any]:
    """Score base and served model on ``rows`` as the recipe measures its target; write ``out``/drift.json."""
    with running("drift"), stage("drift") as tracked:
        config = parse(DriftConfig, settings, where="--set")
        version = open_registry(name).pick(alias)
        model = _checked(version)
        then = at_promotion(published_verdict(model), recipe.score.target.metric)
        found = compare(config, then, *_scored(recipe, model, rows, Path(out)))
        facts = {"schema": "retain.drift/1", "name": name, "version": version.version, "digest": version.digest, "exit_code": int(found.exit_code), **asdict(found)}  # fmt: skip
        write_json(Path(out) / "drift.json", facts)
        _tell(found, version)
        tracked.metrics({"drift_loss_points": found.loss_points, "drift_gain_points": found.now.points})
        tracked.tags({"drift": found.word, "model_digest": version.digest})
    return facts


def _checked(version: Version) -> Path:
    """The served model's folder, with the very files that were registered."""
    folder = uris.fetch(version.source, home() / "files")
    if (got := digest.of_model(folder)) != version.digest:
        raise IntegrityError("the store gave other files than were registered", where=uris.without_secrets(version.source), got=got, expected=version.digest)  # fmt: skip
    return folder


def _scored(recipe: Recipe, model: Path, rows: str, out: Path) -> tuple[Any, Any]:
    """Scores of base and served model on the fresh rows alone, checked as the recipe checks its test rows."""
    base, _ = resolve_base(recipe)
    spec = _like_the_test_rows(recipe).model_copy(update={"path": rows, "name": "fresh", "rows": ""})
    checks = recipe.data.checks.model_copy(update={"min_rows": 0})
    file = uris.fetch(rows, home() / "files")
    validate(checks, [spec], [file], base, out / "dataset", out / "rejects", out / "validate.html")
    config: ScoreConfig = recipe.score.model_copy(update={"tasks": []})
    for role, folder in (("base", base), ("champion", model)):
        score(config, folder, out / role, dataset=out / "dataset", cache=home() / "scores", role=role)  # type: ignore[arg-type]
    return read_scores(out / "base"), read_scores(out / "champion")


def _like_the_test_rows(recipe: Recipe) -> DatasetSpec:
    found = [spec for spec in recipe.data.datasets if (spec.part, spec.split) == ("target", "test")]
    if not found or recipe.score.target.metric == "none":
        raise UsageError("this recipe measures no target", where="data.datasets, score.target", expected="test rows and a metric, which the fresh rows are read like")  # fmt: skip
    return found[0]


def _tell(found: Drift, version: Version) -> None:
    say(f"{version.name} version {version.version}: {SENTENCE[found.word]}")
    say(f"  gain over the base   then {found.then.points:+.1f} points on {found.then.rows} rows, now {found.now.points:+.1f} on {found.now.rows}")  # fmt: skip
    say(f"  loss                 {found.loss_points:.1f} points (95 %: {found.low:.1f} to {found.high:.1f})")
    if found.needed:
        say(f"  {found.needed} fresh rows would decide")
