"""A disk that is really full, clocks that are wrong, and what a run leaves behind of the credentials it was given."""

import contextlib
import datetime
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retain import digest
from retain.errors import EnvironmentFault, IntegrityError
from retain.publish import registry, signing
from retain.publish.config import PublishConfig
from retain.publish.versions import open_registry
from retain.publish.work import publish

Judged = Callable[..., Path]
PLANTED = {
    "AWS_SESSION_TOKEN": "hunter2-session", "HF_TOKEN": "hf_hunter2huggingfacehub", "RETAIN_SIGNING_PASSWORD": "hunter2-signing",
    "RETAIN_OCI_PASSWORD": "hunter2-oci", "MLFLOW_TRACKING_PASSWORD": "hunter2-mlflow", "PGPASSWORD": "hunter2-database",
}  # fmt: skip


def test_a_full_disk_is_said_and_leaves_nothing(small_disk: Path, model: Path, judged: Judged, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="could not be copied") as caught:
        publish(PublishConfig(name="orders", store=str(small_disk)), model, judged(model))
    assert "No space left" in str(caught.value)
    assert not list(small_disk.iterdir())
    assert open_registry("orders").all() == []
    assert publish(PublishConfig(name="orders", store=str(tmp_path / "shelf")), model, judged(model)).version == 1
    with pytest.raises(EnvironmentFault):
        registry.pull("orders", "1", small_disk / "pulled")
    assert not list(small_disk.iterdir())


def test_a_store_that_is_no_folder(model: Path, judged: Judged, tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    shelf.write_text("a file where the folder should be")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        publish(PublishConfig(name="orders", store=str(shelf)), model, judged(model))
    assert open_registry("orders").all() == []


@pytest.mark.parametrize("years", [-10, 10])
def test_a_signature_does_not_depend_on_any_clock(
    years: int, model: Path, judged: Judged, key_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    private, public = key_pair
    with clock(monkeypatch, years * 365 * 86400):
        signature = signing.sign(model, digest.model_manifest(model), private)
    (model / signing.SIGNATURE).write_bytes(signature)
    signing.verify(model, digest.model_manifest(model), public)
    bundle = json.loads(signature)["verificationMaterial"]
    assert not bundle.get("tlogEntries")
    assert "timestampVerificationData" not in bundle
    (model / "config.json").write_text("{}")
    with pytest.raises(IntegrityError, match="signature does not hold"):
        signing.verify(model, digest.model_manifest(model), public)


@contextlib.contextmanager
def clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Iterator[None]:
    """time.time() is off by ``seconds`` within."""
    real = time.time
    with monkeypatch.context() as inner:
        inner.setattr(time, "time", lambda: real() + seconds)
        yield


def test_a_clock_that_is_wrong_for_s3_is_named(
    s3: str, model: Path, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    import botocore.auth

    def late(remove_tzinfo: bool = True) -> datetime.datetime:
        found = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=8)
        return found.replace(tzinfo=None) if remove_tzinfo else found

    monkeypatch.setattr(botocore.auth, "get_current_datetime", late)
    with pytest.raises(EnvironmentFault, match="clock") as caught:
        publish(PublishConfig(name="orders", store="s3://models/late"), model, judged(model))
    assert "very-secret" not in str(caught.value)
    assert open_registry("orders").all() == []


def test_nothing_a_run_leaves_behind_holds_a_credential(
    s3: str, model: Path, judged: Judged, home: Path, tmp_path: Path, recipe: dict[str, Any], key_pair: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The step's own door, a failing run, a pull and the compiled pipelines: home, journals, registry, bucket, logs, IR."""
    from retain import uris
    from retain.publish.door import run
    from retain_pipelines import compiling

    for name, value in PLANTED.items():
        if name != "AWS_SESSION_TOKEN":  # the store would refuse it
            monkeypatch.setenv(name, value)
    spilling = {**recipe, "model": {"base_model": "https://me:hunter2-url@host/base.gguf?X-Amz-Signature=hunter2-signed"}}  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps({"schema": "retain.recipe/1", "digest": "sha256:" + "9" * 64, "recipe": spilling, "sources": recipe["data"]["datasets"]}))  # fmt: skip
    kept = tmp_path / "left"
    settings = {"name": "orders", "store": "s3://models/planted", "description": "api_key=hunter2-text, mail me@example.org, AKIAABCDEFGHIJKLMNOP"}  # fmt: skip
    signed = {**settings, "signing_key": str(_locked(key_pair[0], PLANTED["RETAIN_SIGNING_PASSWORD"]))}
    run(signed, str(model), str(judged(model)), str(tmp_path / "recipe.json"), str(kept / "published.json"))
    registry.pull("orders", "1", kept / "pulled", public_key=key_pair[1])
    uris.fetch("s3://models/planted", kept / "bucket")
    compiling.compile_all(kept / "pipelines")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-wrong")
    monkeypatch.setenv("AWS_SESSION_TOKEN", PLANTED["AWS_SESSION_TOKEN"])
    with pytest.raises(SystemExit):
        run({**signed, "store": "s3://models/denied"}, str(model), str(judged(model)), str(tmp_path / "recipe.json"), str(kept / "p.json"))  # fmt: skip
    said = capfd.readouterr()
    (kept / "log").write_text(said.out + said.err)
    assert "refuses these credentials" in said.out + said.err
    files = [p for folder in (home, kept) for p in folder.rglob("*") if p.is_file()]
    kinds = {p.name for p in files}
    assert {"metrics.jsonl", "mlflow.db", "published.json", "README.md", "lineage.json", "log", "model.sig", "regression-gate.yaml"} <= kinds  # fmt: skip
    assert len(files) > 30
    for path in files:
        data = path.read_bytes()
        for secret in (b"hunter2", b"very-secret", b"me@example.org", b"AKIAABCDEFGHIJKLMNOP"):
            assert secret not in data, f"{secret!r} in {path}"


def _locked(key: Path, password: str) -> Path:
    """The same key under a password."""
    from cryptography.hazmat.primitives import serialization as form

    loaded = form.load_pem_private_key(key.read_bytes(), None)
    locked = key.with_name("locked.pem")
    locked.write_bytes(loaded.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(password.encode())))  # fmt: skip
    return locked
