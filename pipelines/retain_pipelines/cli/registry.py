"""The verbs of the registry: pull, promote, rollback, history, lineage."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retain_pipelines.cli.common import Json, emit

if TYPE_CHECKING:
    from retain.publish.registry import Entry

Name = Annotated[str, typer.Argument(help="Registered model.")]
Which = Annotated[
    str, typer.Option("--version", help="A version's number, an alias (candidate, champion) or a digest.")
]


def pull(
    name: Name,
    which: Which = "champion",
    out: Annotated[Path, typer.Option(help="Folder that takes the model; it appears whole or not at all.")] = Path(
        "model"
    ),
    public_key: Annotated[
        str, typer.Option(help="PEM file: the signature must hold under this key; empty: not checked.")
    ] = "",
    json: Json = False,
) -> None:
    """Fetch a registered model and check that it is what was gated."""
    from retain.publish import registry

    pulled = registry.pull(name, which, out, public_key=Path(public_key) if public_key else None)
    emit(
        asdict(pulled), json, f"{name} version {pulled.version} → {out}  {pulled.digest}  signature: {pulled.signature}"
    )


def promote(
    name: Name,
    which: Which = "candidate",
    verdict: Annotated[
        str, typer.Option(help="A newer verdict than the published one; empty: the published one.")
    ] = "",
    json: Json = False,
) -> None:
    """Make a version the champion; it must have passed against the current one."""
    from retain.publish import registry

    version = registry.promote(name, which, verdict=Path(verdict) if verdict else None)
    emit(asdict(version), json, f"{name} version {version.version} is champion")


def rollback(name: Name, json: Json = False) -> None:
    """Make the champion before this one champion again."""
    from retain.publish import registry

    version = registry.rollback(name)
    emit(asdict(version), json, f"{name} version {version.version} is champion again")


def history(name: Name, json: Json = False) -> None:
    """Every version, newest first."""
    from retain.publish import registry

    entries = registry.history(name)
    lines = [f"{e.version:>4}  {e.created}  {e.verdict:<14} {e.digest[:19]}  {'; '.join(_happened(e))}".rstrip() for e in entries]  # fmt: skip
    emit([asdict(entry) for entry in entries], json, "\n".join(lines) or f"no version of {name} yet")


def _happened(entry: "Entry") -> Iterator[str]:
    """Where the version stands now, and what was done with it."""
    if entry.aliases:
        yield ", ".join(entry.aliases)
    if who := entry.events.get("approved_by"):
        yield f"approved by {who}"
    for event in ("promoted", "rolled_back"):
        if when := entry.events.get(event):
            yield f"{event.replace('_', ' ')} {when}"


def lineage(name: Name, which: Which = "candidate", json: Json = False) -> None:
    """Where a version comes from, as a tree of digests."""
    from retain.publish import lineage as lines
    from retain.publish import registry

    node = registry.lineage(name, which)
    emit(lines.as_dict(node), json, lines.tree(node))


VERBS: dict[Callable[..., None], str] = {
    pull: "retain pull ticket-triage --version champion --out model",
    promote: "retain promote ticket-triage",
    rollback: "retain rollback ticket-triage",
    history: "retain history ticket-triage",
    lineage: "retain lineage ticket-triage --version 1",
}
