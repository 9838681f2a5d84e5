import dataclasses

import pytest

from retain.errors import ConfigError, IntegrityError, UsageError
from retain.gate.waivers import KeyFile, verified, waive

GIVEN = {"who": "the release owner", "why": "the set is being repaired", "until": "2026-06-30", "today": "2026-06-01"}


@pytest.fixture
def signer(tmp_path):
    (tmp_path / "key").write_bytes(b"0123456789abcdef0123456789abcdef\n")
    return KeyFile(tmp_path / "key")


def test_a_waiver_is_signed_and_lasts_through_its_last_day(signer):
    waiver = waive("piqa", "sha256:x", **GIVEN, signer=signer)
    assert verified([waiver], signer) == (waiver,)
    assert waiver.holds("sha256:x", "2026-06-30")
    assert not waiver.holds("sha256:x", "2026-07-01")
    assert not waiver.holds("sha256:y", "2026-06-02")


@pytest.mark.parametrize("change", [{"until": "2027-06-30"}, {"benchmark": "mmlu"}, {"who": "somebody"}, {"candidate_digest": "sha256:y"}, {"signature": ""}])  # fmt: skip
def test_a_changed_waiver_is_refused(signer, change):
    waiver = dataclasses.replace(waive("piqa", "sha256:x", **GIVEN, signer=signer), **change)
    with pytest.raises(IntegrityError, match="signature"):
        verified([waiver], signer)


@pytest.mark.parametrize("change", [{"why": " "}, {"who": ""}, {"until": "2026-05-31"}, {"until": "soon"}])
def test_a_waiver_needs_who_why_and_a_coming_day(signer, change):
    with pytest.raises(UsageError):
        waive("piqa", "sha256:x", **{**GIVEN, **change}, signer=signer)


def test_a_short_key_is_refused(tmp_path):
    (tmp_path / "key").write_bytes(b"short")
    for name in ("key", "missing"):
        with pytest.raises(ConfigError, match="key"):
            KeyFile(tmp_path / name)
