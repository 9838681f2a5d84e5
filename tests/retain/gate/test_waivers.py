import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from retain.artifacts import read_json
from retain.config import parse
from retain.digest import of_json
from retain.errors import ConfigError, IntegrityError, UsageError
from retain.gate import door
from retain.gate.config import GatePolicy
from retain.gate.given import check_use, given, record
from retain.gate.waivers import verified, waive
from retain.publish import keys

GIVEN = {"who": "the release owner", "why": "the set is being repaired", "until": "2026-06-30", "today": "2026-06-01"}
FELL = {"reading": (900, 0.0, 0.04), "maths": (900, 0.06, 0.1), "facts": (900, -0.05, 0.1)}


@pytest.fixture
def key(key_pair: tuple[Path, Path]) -> Path:
    return key_pair[0]


@pytest.fixture
def public(key: Path) -> list[str]:
    return [keys.public_of(key)]


def test_a_waiver_is_signed_and_lasts_through_its_last_day(key, public):
    waiver = waive("piqa", "sha256:x", **GIVEN, key=key)
    assert verified([waiver], ["".join(public), *public]) == (waiver,)
    assert waiver.holds("sha256:x", "2026-06-30")
    assert not waiver.holds("sha256:x", "2026-07-01")
    assert not waiver.holds("sha256:y", "2026-06-02")


@pytest.mark.parametrize("change", [{"until": "2027-06-30"}, {"benchmark": "mmlu"}, {"who": "somebody"}, {"candidate_digest": "sha256:y"}, {"signature": ""}, {"signature": "ecdsa-sha256:!"}])  # fmt: skip
def test_a_changed_waiver_is_refused(key, public, change):
    waiver = dataclasses.replace(waive("piqa", "sha256:x", **GIVEN, key=key), **change)
    with pytest.raises(IntegrityError, match="signature"):
        verified([waiver], public)


def test_another_persons_key_is_refused_and_a_second_one_may_be_named(key, public, tmp_path):
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    other = tmp_path / "other.pem"
    made = ec.generate_private_key(ec.SECP256R1())
    other.write_bytes(made.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"hidden")))  # fmt: skip
    with pytest.raises(ConfigError, match="cannot be read"):
        waive("piqa", "sha256:x", **GIVEN, key=other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETAIN_SIGNING_PASSWORD", "hidden")
        theirs, line = waive("piqa", "sha256:x", **GIVEN, key=other), keys.public_of(other)
    with pytest.raises(IntegrityError, match="signature"):
        verified([theirs], public)
    assert verified([theirs], [*public, line]) == (theirs,)


@pytest.mark.parametrize("change", [{"why": " "}, {"who": ""}, {"until": "2026-05-31"}, {"until": "soon"}])
def test_a_waiver_needs_who_why_and_a_coming_day(key, change):
    with pytest.raises(UsageError):
        waive("piqa", "sha256:x", **{**GIVEN, **change}, key=key)


def test_a_missing_or_foreign_key_is_refused(tmp_path):
    (tmp_path / "key").write_bytes(b"short")
    for name in ("key", "missing"):
        with pytest.raises(ConfigError, match="key"):
            waive("piqa", "sha256:x", **GIVEN, key=tmp_path / name)
    with pytest.raises(ConfigError, match="no public key"):
        keys.holds(b"", "ecdsa-sha256:", "c2hvcnQ=")


def test_the_policy_takes_a_pem_block_as_it_is(key_pair, public):
    policy = parse(GatePolicy, {"waiver_keys": [key_pair[1].read_text()]}, where="gate")
    assert policy.waiver_keys == public
    assert parse(GatePolicy, {"waiver_keys": public[0]}, where="gate").waiver_keys == public


@pytest.fixture
def gated(tmp_path, scores_folder, draw, public, registry_home):
    """gated(**settings) → verdict.json of a candidate that lost maths, by the gate's door; and its folder."""
    base, tuned = draw(FELL)
    left, right = scores_folder(tmp_path / "base", base), scores_folder(tmp_path / "tuned", tuned, of_json("tuned"))

    def run(*, known=True, file=""):
        policy = {"macro_margin_points": 6, "target": {"rule": "none"}, "waiver_keys": public if known else []}
        out = tmp_path / "verdict"
        door.run(parse(GatePolicy, policy).as_parameter(), str(left), str(right), str(out), str(out / "report.html"), waivers=file)  # fmt: skip
        return read_json(out / "verdict.json", schema="retain.verdict/1")

    return run


def test_a_waived_drop_lets_that_model_pass_and_is_said_everywhere(gated, key, tmp_path):
    closed = gated()
    assert [(r["code"], r["benchmark"]) for r in closed["reasons"]] == [("benchmark_drop", "maths")]
    record(waive("maths", closed["candidate_digest"], **{**GIVEN, "until": "2999-01-01"}, key=key))
    opened = gated()
    assert (opened["verdict"], opened["attempt"]) == ("pass", 1)
    assert opened["waivers"][0]["who"] == "the release owner"
    assert "Waived: maths by the release owner until 2999-01-01" in (tmp_path / "verdict" / "summary.md").read_text()
    assert "Waiver for maths by the release owner" in (tmp_path / "verdict" / "report.html").read_text()
    assert gated(known=False)["verdict"] == "regressed"


def test_an_expired_waiver_lifts_nothing(gated, key):
    closed = gated()
    record(waive("maths", closed["candidate_digest"], **{**GIVEN, "until": "2026-06-02"}, key=key))
    again = gated()
    assert (again["verdict"], again["waivers"][0]["holds"]) == ("regressed", False)


def test_a_waiver_may_come_in_a_file_and_another_models_is_left_aside(
    gated, key, tmp_path, empty_registry, monkeypatch
):
    closed, file = gated(), tmp_path / "waivers.json"
    record(waive("maths", "sha256:another", **{**GIVEN, "until": "2999-01-01"}, key=key), file)
    assert gated(file=str(file))["waivers"] == []
    record(waive("maths", closed["candidate_digest"], **{**GIVEN, "until": "2999-01-01"}, key=key), file)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(empty_registry, tmp_path / "elsewhere")
    monkeypatch.setenv("RETAIN_HOME", str(tmp_path / "elsewhere"))  # another machine, whose register knows nothing
    assert gated()["verdict"] == "regressed"
    assert len(json.loads(file.read_text())["waivers"]) == 2
    assert gated(file=str(file))["verdict"] == "pass"
    with pytest.raises(ConfigError, match="nobody who may waive"):
        given("sha256:x", [], file)


def test_a_forged_waiver_closes_the_gate_as_integrity(gated, key):
    closed = gated()
    made = waive("maths", closed["candidate_digest"], **{**GIVEN, "until": "2026-06-02"}, key=key)
    record(dataclasses.replace(made, until="2999-01-01"))
    assert (gated()["verdict"], gated()["exit_code"]) == ("integrity", 6)


def test_only_a_single_benchmarks_drop_can_be_waived(gated):
    closed = gated()
    assert check_use(closed, "maths") == []
    with pytest.raises(UsageError, match="did you mean 'maths'"):
        check_use(closed, "math")
    with pytest.raises(UsageError, match="nothing to waive"):
        check_use({"reasons": [{"code": "macro_margin", "benchmark": ""}]}, "maths")
