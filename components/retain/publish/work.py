"""Publish: check, copy to a content-addressed place, read back, sign, make the version, move the alias last.

Killed anywhere, the registry shows a whole model or none, and running the same command again finishes the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retain import digest, tracking
from retain.artifacts import read_json
from retain.errors import EnvironmentFault
from retain.publish import lineage, signing, verdicts
from retain.publish.card import card
from retain.publish.config import PublishConfig
from retain.publish.registry import crown
from retain.publish.stores import open_store
from retain.publish.tags import version_tags
from retain.publish.versions import CHAMPION, JUDGED, Registry, Version, open_registry
from retain.train import places


@dataclass(frozen=True)
class PublishResult:
    """version is 0 where publishing is switched off. created: this call made the version; notes: what a person should know."""

    name: str
    version: int
    digest: str
    source: str
    created: bool
    aliases: tuple[str, ...]
    notes: tuple[str, ...] = ()


def publish(
    config: PublishConfig, model: Path, verdict: Path, *, recipe: Mapping[str, Any] | None = None, approved_by: str = ""
) -> PublishResult:
    """Register the gated files of ``model`` under ``config.name``.

    verdict: the gate's folder (verdict.json). recipe: the resolved recipe, for card and lineage. approved_by: the person
    who said yes, where the gate asked to wait for one. Raises IntegrityError (6) where files, verdict, waivers or champion
    do not agree, EnvironmentFault (8) where store or registry fail: nothing half is left, and the same call goes on.
    """
    files = verdicts.checked_manifest(model)
    ours, said, recipe = digest.of_manifest(files), verdicts.read(verdict), recipe or {}
    verdicts.check(said, ours, approved_by=approved_by)
    if not config.enabled:
        return PublishResult(
            config.name, 0, ours, "", False, (), ("publishing is switched off: nothing was registered",)
        )
    registry = open_registry(config.name)
    champion = registry.by_alias(CHAMPION)
    verdicts.check_champion(said, champion.digest if champion else "", needed=config.promote == "auto")
    node = lineage.build(ours, _beside(model, "manifest"), said, recipe, verdicts.check_evidence(said, verdict))
    extras = _extras(config, model, said, recipe, node)
    if config.signing_key:
        extras[signing.SIGNATURE] = signing.sign(model, files, Path(config.signing_key))
    store = open_store(config.store or str(tracking.home() / "models"))
    source = store.put(model, files, extras)
    tags = _tags(said, node, approved_by)
    version, created = registry.create(source, ours, tags)
    if version.tags.get(JUDGED) != tags[JUDGED]:  # these weights were gated anew: that verdict is the version's now
        registry.set_tags(version.version, tags)
    notes = [*([] if created else [f"version {version.version} already holds these weights"]), *_tidied(model, recipe)]
    return _finish(config, registry, version, created, said, notes)


def _beside(model: Path, name: str) -> dict[str, Any]:
    """manifest.json, proof.json or compression.json of the step that made the model; empty where there is none."""
    path = model / f"{name}.json"
    return read_json(path, schema=f"retain.{name}/1") if path.is_file() else {}


def _extras(
    config: PublishConfig, model: Path, said: Mapping[str, Any], recipe: Mapping[str, Any], node: lineage.Node
) -> dict[str, bytes]:
    text = card(
        config, said, {name: _beside(model, name) for name in ("proof", "compression", "manifest")}, recipe, node
    )
    made = {"README.md": text.encode(), "lineage.json": digest.canonical_json(lineage.as_dict(node)).encode(), "verdict.json": digest.canonical_json(dict(said)).encode()}  # fmt: skip
    kept = {
        name: (model / name).read_bytes()
        for name in ("manifest.json", "proof.json", "compression.json")
        if (model / name).is_file()
    }
    return {**made, **kept}


def _tags(said: Mapping[str, Any], node: lineage.Node, approved_by: str) -> dict[str, str]:
    approved = {"retain.approved_by": approved_by} if approved_by else {}
    return {**version_tags(said, node), "retain.run_id": tracking.run_id(), **approved}


def _tidied(model: Path, recipe: Mapping[str, Any]) -> list[str]:
    """Delete the checkpoints of the trainings that this model was merged from; a store that is away keeps nothing back."""
    uri = str(recipe.get("train", {}).get("checkpoint_uri", ""))
    made = _beside(model, "manifest")
    trained = [entry.get("training", {}) for entry in made.get("made_from", made).get("adapters", [])]
    try:
        for key in {card["checkpoint_key"] for card in trained if "checkpoint_key" in card}:
            places.discard(uri, tracking.home() / "checkpoints", key)
    except EnvironmentFault as fault:
        return [f"the checkpoints under {uri} were not deleted: {fault.what}"]
    return []


def _finish(config: PublishConfig, registry: Registry, version: Version, created: bool, said: Mapping[str, Any], notes: list[str]) -> PublishResult:  # fmt: skip
    """Aliases last; an alias that already stands on a newer version is not moved back."""
    for alias in (config.alias, *((CHAMPION,) if config.promote == "auto" else ())):
        now = registry.by_alias(alias)
        if now and now.version > version.version:
            notes.append(f"{alias} stays on the newer version {now.version}")
        elif alias == CHAMPION:
            crown(registry, version, said)
        elif now is None or now.version != version.version:
            registry.set_alias(alias, version.version)
    aliases = registry.pick(str(version.version)).aliases
    return PublishResult(config.name, version.version, version.digest, version.source, created, aliases, tuple(notes))
