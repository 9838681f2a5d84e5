"""What is published is what was gated; a closed gate, a changed file and a second run."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from retain import digest
from retain.errors import EnvironmentFault, IntegrityError
from retain.gate.waivers import waive
from retain.publish import keys
from retain.publish.config import PublishConfig
from retain.publish.lineage import tree
from retain.publish.registry import lineage
from retain.publish.versions import open_registry
from retain.publish.work import publish

Judged = Callable[..., Path]
Another = Callable[[int], Path]


def place(source: str) -> Path:
    return Path(source.removeprefix("file://"))


def test_the_registered_files_are_the_gated_ones(model: Path, judged: Judged, recipe: dict[str, Any]) -> None:
    done = publish(PublishConfig(name="orders", description="Sorts orders."), model, judged(model), recipe=recipe)
    assert (done.version, done.created, done.aliases) == (1, True, ("candidate",))
    assert done.digest == digest.of_model(model) == digest.of_model(place(done.source))
    (version,) = open_registry("orders").all()
    assert version.tags["retain.verdict"] == "pass"
    assert version.tags["retain.policy_digest"] == "sha256:" + "c" * 64
    assert json.loads(version.tags["retain.lineage"])["digest"] == done.digest
    assert version.tags["retain.run_id"] == "run-1"
    text = (place(done.source) / "README.md").read_text()
    for fact in (
        "Sorts orders.",
        "core_facts",
        "**PASS**",
        "+60.0",
        "-1.0",
        "sha256:" + "d" * 64,
        "learning rate: 0.0001",
    ):
        assert fact in text


def test_card_and_tree_of_several_adapters_say_each_thing_once_and_where_it_comes_from(
    model: Path, judged: Judged, recipe: dict[str, Any]
) -> None:
    training = {"method": "lora", "mixture_digest": "sha256:" + "4" * 64}
    merged = [{"digest": "sha256:" + n * 64, "weight": w, "kind": "peft", "training": training} for n, w in (("1", 0.7), ("2", 0.3))]  # fmt: skip
    made = {"files": digest.model_manifest(model), "base_digest": "sha256:" + "b" * 64, "method": "ties", "strength": 1.2, "adapters": merged}  # fmt: skip
    (model / "manifest.json").write_text(json.dumps({"schema": "retain.manifest/1", **made}))
    logits = {"adapter_effect": 0.1, "rms_difference": 0.001, "allowed": 0.02}
    (model / "proof.json").write_text(json.dumps({"schema": "retain.proof/1", "strength": 1.2, "changed_tensors": 3, "logits": logits}))  # fmt: skip
    row = {"name": "core_facts", "metric": "acc", "n": 400, "base": 0.61, "tuned": 0.61, "drop_points": 0.0, "low": -0.4, "high": 0.4}  # fmt: skip
    lora = {**recipe, "train": {**recipe["train"], "num_train_epochs": 2.0, "lora": {"r": 8.0, "alpha": 16.0}}}
    done = publish(PublishConfig(name="the orders"), model, judged(model, benchmarks=[row]), recipe=lora)
    text = (place(done.source) / "README.md").read_text()
    for fact in (
        "| core_facts | acc | 400 | 61.0 | 61.0 | +0.0 | -0.4 to +0.4 |", "error rate of 5 %", "epochs: 2\n", "rank 8, alpha 16", "2 merged into one by ties, weights 0.7, 0.3",
        "strength: 1.2 (more than was trained)", f"retain pull 'the orders' --version {done.digest}", "mixture 444444444444 as above",
    ):  # fmt: skip
        assert fact in text, fact
    assert text.count("orders.jsonl") == 1


def test_a_second_run_changes_nothing_and_a_second_model_is_a_second_version(
    model: Path, judged: Judged, another: Another
) -> None:
    config = PublishConfig(name="orders")
    first = publish(config, model, judged(model))
    again = publish(config, model, judged(model))
    assert (again.version, again.created) == (first.version, False)
    other = another(1)
    second = publish(config, other, judged(other))
    assert (second.version, second.aliases) == (2, ("candidate",))
    late = publish(config, model, judged(model))
    assert late.version == 1
    assert "newer version 2" in " ".join(late.notes)
    assert [v.aliases for v in open_registry("orders").all()] == [(), ("candidate",)]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"verdict": "regressed", "action": "stop", "reasons": [{"code": "macro_margin"}]}, "macro_margin"),
        ({"verdict": "inconclusive", "action": "stop"}, "inconclusive"),
        ({"candidate_digest": "sha256:" + "0" * 64}, "another model"),
        ({"action": "wait", "exit_code": 5}, "retain approve"),
        ({"waivers": [{"benchmark": "core_facts", "who": "a", "why": "b", "until": "2020-01-01", "holds": True}]}, "expired"),
        ({"schema": "retain.verdict/9"}, "not known"),
    ],
)  # fmt: skip
def test_without_a_passing_verdict_nothing_leaves(
    model: Path, judged: Judged, home: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(IntegrityError, match=told) as caught:
        publish(PublishConfig(name="orders"), model, judged(model, **changes))
    assert caught.value.exit_code == 6
    assert not (home / "models").exists()
    assert open_registry("orders").all() == []


def test_a_changed_or_truncated_file_is_named(model: Path, judged: Judged) -> None:
    files = digest.model_manifest(model)
    (model / "manifest.json").write_text(json.dumps({"schema": "retain.manifest/1", "files": files}))
    verdict = judged(model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        publish(PublishConfig(name="orders"), model, verdict)
    (model / "manifest.json").unlink()
    with pytest.raises(IntegrityError, match="another model"):
        publish(PublishConfig(name="orders"), model, verdict)


def test_a_person_may_say_yes(model: Path, judged: Judged) -> None:
    verdict = judged(model, action="wait", exit_code=5)
    done = publish(PublishConfig(name="orders"), model, verdict, approved_by="the reviewer")
    assert open_registry("orders").pick(str(done.version)).tags["retain.approved_by"] == "the reviewer"


def test_a_waived_drop_is_published_only_with_its_signature_and_stands_in_the_lineage(
    model: Path, judged: Judged, key_pair: tuple[Path, Path]
) -> None:
    waiver = waive("core_facts", digest.of_model(model), who="the owner", why="known fault", until="2999-01-01", today="2026-01-01", key=key_pair[0])  # fmt: skip
    row = {**asdict(waiver), "holds": True}
    del row["candidate_digest"]
    known = {
        "policy": {"cumulative_factor": 2.0, "macro_margin_points": 3.0, "waiver_keys": [keys.public_of(key_pair[0])]}
    }
    for forged in ({**row, "why": "no reason"}, {**row, "benchmark": "core_words"}):
        with pytest.raises(IntegrityError, match="signature"):
            publish(PublishConfig(name="orders"), model, judged(model, waivers=[forged], **known))
    with pytest.raises(IntegrityError, match="signature"):
        publish(PublishConfig(name="orders"), model, judged(model, waivers=[row]))  # a policy that knows nobody
    done = publish(PublishConfig(name="orders"), model, judged(model, waivers=[row], **known))
    shown = tree(lineage("orders", str(done.version)))
    assert "waiver" in shown
    assert "benchmark core_facts, who the owner, until 2999-01-01, why known fault" in shown
    assert "Waived: core_facts, by the owner" in (place(done.source) / "README.md").read_text()


def test_the_champion_must_have_been_compared_with(model: Path, judged: Judged, another: Another) -> None:
    auto = PublishConfig(name="orders", promote="auto")
    first = publish(auto, model, judged(model))
    assert first.aliases == ("candidate", "champion")
    two, three = another(2), another(3)
    with pytest.raises(IntegrityError, match="model in service"):
        publish(auto, two, judged(two))  # compared with the base only: good for a candidate, not for a champion
    assert publish(PublishConfig(name="orders"), two, judged(two)).aliases == ("candidate",)
    stale = judged(three, baselines=[{"role": "champion", "digest": "sha256:" + "9" * 64}])
    with pytest.raises(IntegrityError, match="model in service"):
        publish(PublishConfig(name="orders"), three, stale)
    fresh = judged(three, baselines=[{"role": "champion", "digest": first.digest}])
    assert publish(auto, three, fresh).aliases == ("candidate", "champion")


def test_switched_off_it_checks_but_registers_nothing(model: Path, judged: Judged, home: Path) -> None:
    done = publish(PublishConfig(name="orders", enabled=False), model, judged(model))
    assert (done.version, open_registry("orders").all()) == (0, [])
    with pytest.raises(IntegrityError):
        publish(PublishConfig(name="orders", enabled=False), model, judged(model, verdict="regressed"))


def test_the_registry_down_is_said_and_the_next_run_finishes(
    model: Path, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@127.0.0.1:9")
    with pytest.raises(EnvironmentFault) as caught:
        publish(PublishConfig(name="orders"), model, judged(model))
    assert caught.value.exit_code == 8
    assert "hunter2" not in str(caught.value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert publish(PublishConfig(name="orders"), model, judged(model)).version == 1


def test_other_bytes_in_the_store_are_found_before_the_version(model: Path, judged: Judged, another: Another) -> None:
    done = publish(PublishConfig(name="orders"), model, judged(model))
    weights = place(done.source) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="other bytes"):
        publish(PublishConfig(name="second"), model, judged(model))
    assert open_registry("second").all() == []


@pytest.mark.parametrize("where", ["flush", "create", "set_alias"])
def test_killed_anywhere_the_registry_shows_a_whole_model_or_none(
    model: Path, judged: Judged, home: Path, where: str
) -> None:
    verdict = judged(model)
    code = f"""
        import os, signal
        from pathlib import Path
        from retain.publish import mlflow_versions, stores
        from retain.publish.config import PublishConfig
        from retain.publish.work import publish
        def die(*args, **more): os.kill(os.getpid(), signal.SIGKILL)
        owner = stores if {where!r} == "flush" else mlflow_versions.MlflowRegistry
        setattr(owner, {where!r}, die)
        publish(PublishConfig(name="orders"), Path({str(model)!r}), Path({str(verdict)!r}))
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env).returncode == -signal.SIGKILL
    for version in open_registry("orders").all():
        assert digest.of_model(place(version.source)) == version.digest
    done = publish(PublishConfig(name="orders"), model, verdict)
    assert (done.version, done.aliases) == (1, ("candidate",))
    assert len(open_registry("orders").all()) == 1


def test_sixteen_publishers_at_once_make_one_version(model: Path, judged: Judged) -> None:
    verdict = judged(model)
    open_registry("warm-up").all()
    code = f"""
        import threading
        from pathlib import Path
        from retain.publish.config import PublishConfig
        from retain.publish.work import publish
        def one():
            done = publish(PublishConfig(name="orders"), Path({str(model)!r}), Path({str(verdict)!r}))
            print(f"{{done.version}} {{done.created}}\\n", end="", flush=True)
        four = [threading.Thread(target=one) for _ in range(8)]
        [t.start() for t in four]; [t.join() for t in four]
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    processes = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [line for p in processes for line in p.communicate(timeout=200)[0].splitlines()]
    assert len(said) == 16
    assert len({line.split()[0] for line in said}) == 1
    assert sum(line.endswith("True") for line in said) == 1
    assert len(open_registry("orders").all()) == 1
