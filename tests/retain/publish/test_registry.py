"""Promote, roll back, history, lineage, and a pull that refuses what is not the registered model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain import digest
from retain.errors import ConfigError, IntegrityError, UsageError
from retain.publish import registry
from retain.publish.config import PublishConfig
from retain.publish.lineage import tree
from retain.publish.work import publish

Judged = Callable[..., Path]
Another = Callable[[int], Path]
ORDERS = PublishConfig(name="orders")


def test_a_champion_needs_a_verdict_against_the_present_one_and_can_be_rolled_back(
    model: Path, judged: Judged, another: Another
) -> None:
    first = publish(ORDERS, model, judged(model))
    assert registry.promote("orders").aliases == ("candidate", "champion")
    two = another(2)
    second = publish(ORDERS, two, judged(two))
    with pytest.raises(IntegrityError, match="model in service"):
        registry.promote("orders")
    for_another = judged(model, baselines=[{"role": "champion", "digest": first.digest}])
    with pytest.raises(IntegrityError, match="another model"):
        registry.promote("orders", verdict=for_another)
    newer = judged(two, baselines=[{"role": "champion", "digest": first.digest}])
    assert registry.promote("orders", verdict=newer).version == second.version
    assert registry.promote("orders", verdict=newer).version == second.version
    assert [(e.version, e.aliases) for e in registry.history("orders")] == [(2, ("candidate", "champion")), (1, ())]
    assert registry.rollback("orders").version == 1
    events = {e.version: e.events for e in registry.history("orders")}
    assert events[2]["previous_champion"] == "1"
    assert events[2]["rolled_back"] > events[2]["promoted"] or events[2]["rolled_back"] == events[2]["promoted"]
    with pytest.raises(UsageError, match="nothing to roll back"):
        registry.rollback("orders")


def test_the_lineage_is_a_tree_by_digest(model: Path, judged: Judged, recipe: dict[str, Any]) -> None:
    import json

    files = digest.model_manifest(model)
    training = {"method": "lora", "settings_digest": "sha256:" + "5" * 64, "mixture_digest": "sha256:" + "6" * 64, "template_digest": "sha256:" + "7" * 64}  # fmt: skip
    card = {
        "schema": "retain.manifest/1", "files": files, "base_digest": "sha256:" + "b" * 64, "method": "linear", "strength": 0.8,
        "adapters": [{"digest": "sha256:" + "a" * 64, "weight": 1.0, "kind": "peft", "training": training}], "notes": [],
    }  # fmt: skip
    (model / "manifest.json").write_text(json.dumps(card))
    verdict = judged(model)
    (verdict / "evidence.json").write_text(json.dumps({"schema": "retain.evidence/1", "digest": "sha256:" + "8" * 64}))
    done = publish(ORDERS, model, verdict, recipe={**recipe, "digest": "sha256:" + "9" * 64})
    text = tree(registry.lineage("orders", "1")).splitlines()
    assert text[0].startswith(f"model {done.digest[7:19]} (merged linear, strength 0.8)")
    kinds = [line.lstrip("│├└─ ").split()[0] for line in text]
    assert kinds == ["model", "base", "adapter", "mixture", "template", "data", "recipe", "verdict", "scores", "baseline"]  # fmt: skip
    tags = registry.open_registry("orders").pick("1").tags
    assert tags["retain.mixture_digest"] == "sha256:" + "6" * 64
    for kind, digit in {"template": "7", "scores": "8", "recipe": "9"}.items():
        assert tags[f"retain.{kind}_digest"] == "sha256:" + digit * 64
    assert tags["retain.data_digest"] == "sha256:" + "d" * 64


def test_a_pull_refuses_changed_files_code_and_foreign_signatures(
    model: Path, judged: Judged, key_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = key_pair
    done = publish(PublishConfig(name="orders", signing_key=str(private)), model, judged(model))
    place, target = Path(done.source.removeprefix("file://")), tmp_path / "pulled"
    other = tmp_path / "other.pub"
    other.write_bytes(another_public_key())
    with pytest.raises(IntegrityError, match="signature does not hold"):
        registry.pull("orders", "1", target, public_key=other)
    (place / "model.sig").rename(place / "kept")
    with pytest.raises(IntegrityError, match="could run code"):
        registry.pull("orders", "1", target)
    kept = (place / "kept").rename(tmp_path / "kept")
    with pytest.raises(IntegrityError, match="not signed"):
        registry.pull("orders", "1", target, public_key=public)
    kept.rename(place / "model.sig")
    assert registry.pull("orders", done.digest[:20], target, public_key=public).version == 1
    (place / "config.json").write_text("{}")
    with pytest.raises(IntegrityError, match="other files than were registered"):
        registry.pull("orders", "1", target)
    assert digest.of_model(target) == done.digest  # the good copy of before is untouched
    with pytest.raises(ConfigError, match="no such version"):
        registry.pull("orders", "17", target)


def another_public_key() -> bytes:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return key.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
