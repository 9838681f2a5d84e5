"""The verbs by which a person answers for a model: approve, waive."""

import json as jsonlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retain.errors import UsageError
from retain_pipelines.cli.common import Json, emit, quiet

if TYPE_CHECKING:
    from retain_pipelines.approval import Waiting

By = Annotated[str, typer.Option(help="Who says so: a name that stands in the registry and on the card.")]


def approve(
    run: Annotated[
        str, typer.Argument(help="Folder of a run or of a verdict; with --artifacts, the id of a cluster's run.")
    ],
    by: By,
    model: Annotated[str, typer.Option(help="Folder of the model, where it does not lie in the run.")] = "",
    recipe: Annotated[str, typer.Option(help="Resolved recipe, where it does not lie in the run.")] = "",
    artifacts: Annotated[str, typer.Option(help="Pipeline root (s3://bucket/prefix) of a cluster's run.")] = "",
    pipeline: Annotated[str, typer.Option(help="Pipeline of that run.")] = "finetune-without-forgetting",
    json: Json = False,
) -> None:
    """Publish the model of a run that awaits approval: that very digest, after the same checks."""
    from retain_pipelines import approval

    with tempfile.TemporaryDirectory(prefix="retain-approve-") as aside:
        place = approval.download(artifacts, pipeline, run, Path(aside)) if artifacts else Path(run)
        _publish(approval.find(place, model=model, recipe=recipe), by, json)


def _publish(waiting: "Waiting", by: str, json: bool) -> None:
    from retain.artifacts import read_json
    from retain.publish.door import run as door

    if not by.strip():
        raise UsageError("an approval has a name", where="--by", got="nothing")
    if waiting.run_id:
        os.environ["RETAIN_RUN_ID"] = waiting.run_id
    config = read_json(waiting.recipe, schema="retain.recipe/1")["recipe"]["publish"]
    out = waiting.verdict / "published.json"
    quiet(json, door, config, str(waiting.model), str(waiting.verdict), str(waiting.recipe), str(out), by.strip())
    if json:
        emit(jsonlib.loads(out.read_text(encoding="utf-8")), True)


def waive(
    benchmark: Annotated[str, typer.Argument(help="The one benchmark whose drop is let pass.")],
    verdict: Annotated[Path, typer.Option(help="Folder of the verdict that closed (or its verdict.json).")],
    who: Annotated[str, typer.Option(help="Who answers for it.")],
    why: Annotated[str, typer.Option(help="Why the drop may be.")],
    until: Annotated[str, typer.Option(help="Last day it holds, YYYY-MM-DD (UTC).")],
    key: Annotated[
        Path, typer.Option(help="EC private key in PEM form; its password comes from RETAIN_SIGNING_PASSWORD.")
    ],
    file: Annotated[
        str, typer.Option(help="A file that takes the waiver too, for gates elsewhere (gate --waivers).")
    ] = "",
    json: Json = False,
) -> None:
    """Let one benchmark's drop pass for one model until a day, signed; then gate again (it is the same attempt)."""
    from retain.gate import given, waivers
    from retain.publish import keys, verdicts

    said = verdicts.read(verdict)
    left = given.check_use(said, benchmark)
    today = datetime.now(UTC).date().isoformat()
    made = waivers.waive(benchmark, said["candidate_digest"], who=who, why=why, until=until, today=today, key=key)
    given.record(made, Path(file) if file else None)
    public = keys.public_of(key)
    lines = [f"{benchmark} is waived for {made.candidate_digest[:19]} until {until}, by {made.who}: {made.why}"]
    if public not in said["policy"].get("waiver_keys", []):
        lines.append(f"the policy does not know this key yet: add it to gate.waiver_keys\n  {public}")
    lines += [f"the gate stays closed all the same: {', '.join(left)}"] if left else []
    emit({**asdict(made), "public_key": public, "left": left}, json, "\n".join(lines))


VERBS: dict[Callable[..., None], str] = {
    approve: "retain approve runs/quickstart-20260101-120000-1 --by 'the release owner'",
    waive: "retain waive core_words --verdict out/verdict --who 'the release owner' --why 'known fault of the set' --until 2026-12-31 --key key.pem",
}
