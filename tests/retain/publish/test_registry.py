"""Promote, roll back, history, lineage, and a pull that refuses what is not the registered model."""

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from retain import digest
from retain.artifacts import read_json, write_json
from retain.errors import ConfigError, IntegrityError, UsageError
from retain.gate.config import GatePolicy, TargetRule
from retain.gate.evidence import write_evidence
from retain.gate.judge import Against, Case, judge_case
from retain.gate.pairs import Pairs
from retain.gate.waivers import waive
from retain.publish import keys, registry, verdicts
from retain.publish.config import PublishConfig
from retain.publish.lineage import tree
from retain.publish.stores import FolderStore
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


def test_a_newer_verdict_becomes_the_versions_own(model: Path, judged: Judged, another: Another) -> None:
    """Approved once more after the champion changed, or promoted with it: registry and lineage tell the verdict that counts."""
    first, two, three = publish(ORDERS, model, judged(model)), another(2), another(3)
    registry.promote("orders")
    for other in (two, three):
        publish(ORDERS, other, judged(other))
    known = {"baselines": [{"role": "champion", "digest": first.digest}], "attempt": 3}
    again = publish(ORDERS, two, judged(two, action="wait", exit_code=5, **known), approved_by="the reviewer")
    assert (again.version, again.created) == (2, False)
    assert registry.promote("orders", "2").tags["retain.approved_by"] == "the reviewer"
    assert f"baseline {first.digest[7:19]} (role champion)" in tree(registry.lineage("orders", "2"))
    stale = judged(three, **known)
    with pytest.raises(IntegrityError, match="model in service"):
        registry.promote("orders", "3", verdict=stale)
    assert "attempt 1" in tree(registry.lineage("orders", "3"))  # what did not count is not told
    fresh = judged(three, baselines=[{"role": "champion", "digest": again.digest}], attempt=2)
    assert registry.promote("orders", "3", verdict=fresh).tags["retain.attempt"] == "2"
    assert tree(registry.lineage("orders", "3")).count("verdict") == 2  # one node, which says so itself


def test_of_two_that_passed_against_the_same_champion_one_is_promoted(
    model: Path, judged: Judged, another: Another, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = PublishConfig(name="orders", promote="auto")
    first, two, three = publish(auto, model, judged(model)), another(2), another(3)
    against = {"baselines": [{"role": "champion", "digest": first.digest}]}
    whole = FolderStore.put

    def slow(self: FolderStore, *given: Any) -> str:
        """While the third model's files travel the second one is promoted."""
        monkeypatch.setattr(FolderStore, "put", whole)
        publish(auto, two, judged(two, **against))
        return whole(self, *given)

    monkeypatch.setattr(FolderStore, "put", slow)
    with pytest.raises(IntegrityError, match="model in service"):
        publish(auto, three, judged(three, **against))
    champion = registry.open_registry("orders").by_alias("champion")
    assert champion is not None
    assert champion.digest == digest.of_model(two)
    assert registry.rollback("orders").digest == first.digest


def test_a_version_whose_waiver_has_expired_is_not_promoted(
    model: Path, judged: Judged, key_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiver = waive("core_facts", digest.of_model(model), who="the owner", why="known fault", until="2999-01-01", today="2026-01-01", key=key_pair[0])  # fmt: skip
    row = {**asdict(waiver), "holds": True}
    del row["candidate_digest"]
    known = {"cumulative_factor": 2.0, "macro_margin_points": 3.0, "waiver_keys": [keys.public_of(key_pair[0])]}
    publish(ORDERS, model, judged(model, waivers=[row], policy=known))

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Later":
            return cls(2999, 1, 2, tzinfo=tz)

    with monkeypatch.context() as then:
        then.setattr(verdicts, "datetime", Later)
        with pytest.raises(IntegrityError, match="expired") as caught:
            registry.promote("orders")
        assert "core_facts, by the owner" in str(caught.value)
        with pytest.raises(IntegrityError, match="expired"):
            publish(ORDERS, model, judged(model, waivers=[row], policy=known))
    assert registry.promote("orders").version == 1


def test_the_lineage_is_a_tree_by_digest(model: Path, judged: Judged, recipe: dict[str, Any]) -> None:
    files = digest.model_manifest(model)
    training = {"method": "lora", "settings_digest": "sha256:" + "5" * 64, "mixture_digest": "sha256:" + "6" * 64, "template_digest": "sha256:" + "7" * 64}  # fmt: skip
    card = {
        "schema": "retain.manifest/1", "files": files, "base_digest": "sha256:" + "b" * 64, "method": "linear", "strength": 0.8,
        "adapters": [{"digest": "sha256:" + "a" * 64, "weight": 1.0, "kind": "peft", "training": training}], "notes": [],
    }  # fmt: skip
    (model / "manifest.json").write_text(json.dumps(card))
    verdict = judged(model)
    evidence = prove(verdict, digest.of_model(model))
    done = publish(ORDERS, model, verdict, recipe={**recipe, "digest": "sha256:" + "9" * 64})
    text = tree(registry.lineage("orders", "1")).splitlines()
    assert text[0].startswith(f"model {done.digest[7:19]} (merged linear, strength 0.8)")
    kinds = [line.lstrip("│├└─ ").split()[0] for line in text]
    assert kinds == ["model", "base", "adapter", "mixture", "template", "data", "recipe", "verdict", "scores", "baseline"]  # fmt: skip
    tags = registry.open_registry("orders").pick("1").tags
    assert tags["retain.mixture_digest"] == "sha256:" + "6" * 64
    for kind, digit in {"template": "7", "recipe": "9"}.items():
        assert tags[f"retain.{kind}_digest"] == "sha256:" + digit * 64
    assert tags["retain.scores_digest"] == evidence
    assert tags["retain.data_digest"] == "sha256:" + "d" * 64


def prove(verdict: Path, candidate: str, *, tuned: float = 1.0) -> str:
    """A verdict with its evidence, as the gate writes them, in place of what ``verdict`` held; the evidence's digest."""
    import numpy as np

    names = tuple(f"item {i}" for i in range(40))
    pairs = Pairs("core_facts", np.ones(40), np.full(40, tuned), names, names, 0.25, "acc", 1)
    policy = GatePolicy(macro_margin_points=20, target=TargetRule(rule="none"))
    case = Case(candidate, (Against("base", "sha256:" + "b" * 64, (pairs,)),), today="2026-01-01")
    said = judge_case(case, policy)
    write_evidence(verdict / "evidence.json", case, said)
    write_json(verdict / "verdict.json", said.as_dict())
    return str(read_json(verdict / "evidence.json", schema="retain.evidence/1")["digest"])


@pytest.mark.parametrize("change", [{"verdict": "pass", "action": "publish", "exit_code": 0}, {"attempt": 9}, {"baselines": []}])  # fmt: skip
def test_a_verdict_changed_by_hand_is_refused(model: Path, judged: Judged, change: dict[str, Any]) -> None:
    verdict, opened = judged(model), "verdict" in change
    prove(verdict, digest.of_model(model), tuned=0.0 if opened else 1.0)
    said = json.loads((verdict / "verdict.json").read_text())
    assert said["verdict"] == ("regressed" if opened else "pass")
    (verdict / "verdict.json").write_text(json.dumps({**said, **change}))
    with pytest.raises(IntegrityError, match="not the one its evidence gives") as caught:
        publish(ORDERS, model, verdict)
    assert next(iter(change)) in str(caught.value)
    assert registry.open_registry("orders").all() == []


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
