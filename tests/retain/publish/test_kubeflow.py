"""Versions kept by Kubeflow's Model Registry: the real client against a stand-in that holds requests to the published models."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retain import digest, model_registry, uris
from retain.errors import ConfigError, EnvironmentFault, IntegrityError
from retain.publish import registry
from retain.publish.config import PublishConfig
from retain.publish.lineage import tree
from retain.publish.versions import open_registry
from retain.publish.work import publish

from .model_registry_server import TOKEN, State, serve

Judged = Callable[..., Path]
Another = Callable[[int], Path]
ORDERS = PublishConfig(name="our_orders")


@pytest.fixture
def kubeflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[State]:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with serve() as (address, state):
        monkeypatch.setenv("RETAIN_MODEL_REGISTRY", address)
        monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
        yield state
    assert state.odd == []


def run(model: Path, verdict: Path, more: str = "pass") -> "subprocess.Popen[str]":
    code = f"""
        import os, signal, threading
        from pathlib import Path
        from retain.publish.config import PublishConfig
        from retain.publish.work import publish
        def one():
            done = publish(PublishConfig(name="our_orders"), Path({str(model)!r}), Path({str(verdict)!r}))
            print(f"{{done.version}} {{done.created}}\\n", end="", flush=True)
        {more}
        threads = [threading.Thread(target=one) for _ in range(8)]
        [t.start() for t in threads]; [t.join() for t in threads]
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=env, stdout=subprocess.PIPE, text=True)


def test_published_promoted_rolled_back_and_pulled(
    kubeflow: State, model: Path, judged: Judged, another: Another, recipe: dict[str, Any], tmp_path: Path
) -> None:
    first = publish(ORDERS, model, judged(model), recipe=recipe)
    assert (first.version, first.created, first.aliases) == (1, True, ("candidate",))
    assert registry.promote("our_orders").aliases == ("candidate", "champion")
    (version,) = kubeflow.versions.values()
    (artifact,) = kubeflow.artifacts[version.id]
    assert (version.name, version.state, artifact.uri) == ("1", "LIVE", first.source)
    for i in range(2, 6):  # more than a page
        other = another(i)
        publish(ORDERS, other, judged(other, baselines=[{"role": "champion", "digest": first.digest}]))
    assert registry.promote("our_orders").version == 5
    with pytest.raises(IntegrityError, match="model in service"):
        registry.promote("our_orders", "4")
    assert [(e.version, e.aliases) for e in registry.history("our_orders")][:2] == [(5, ("candidate", "champion")), (4, ())]  # fmt: skip
    assert registry.rollback("our_orders").version == 1
    pulled = registry.pull("our_orders", "champion", tmp_path / "pulled")
    assert digest.of_model(pulled.folder) == first.digest
    left = b"".join(path.read_bytes() for path in pulled.folder.iterdir()) + repr(vars(kubeflow)).encode()
    assert b"hunter2" not in left
    assert tree(registry.lineage("our_orders", "1")).startswith(f"model {first.digest[7:19]}")
    for address, wanted in (("our_orders@champion", first.digest), ("our_orders/5", open_registry("our_orders").pick("5").digest)):  # fmt: skip
        assert digest.of_model(uris.fetch(f"model-registry://{address}", tmp_path / "cache")) == wanted
    with pytest.raises(ConfigError, match="was not found"):
        uris.fetch("model-registry://our_orders@nobody", tmp_path / "cache")


def test_a_name_is_that_name_and_no_pattern(kubeflow: State, model: Path, judged: Judged) -> None:
    publish(PublishConfig(name="our-orders"), model, judged(model))
    assert open_registry("our_orders").all() == []
    assert publish(ORDERS, model, judged(model)).version == 1


REQUESTS = ("create_registered_model", "create_model_version", "upsert_model_version_artifact", "update_model_version", "update_registered_model")  # fmt: skip


@pytest.mark.parametrize("where", REQUESTS)
def test_killed_before_any_request_no_half_version_shows_and_a_second_run_finishes(
    kubeflow: State, model: Path, judged: Judged, where: str
) -> None:
    verdict = judged(model)
    die = f"import mr_openapi; mr_openapi.ModelRegistryServiceApi.{where} = lambda *a, **m: os.kill(os.getpid(), signal.SIGKILL); one()"
    killed = run(model, verdict, die)
    killed.communicate(timeout=100)
    assert killed.returncode == -signal.SIGKILL
    assert len(open_registry("our_orders").all()) == (1 if where == REQUESTS[-1] else 0)
    assert all(kubeflow.artifacts[v.id] for v in kubeflow.versions.values() if v.state == "LIVE")
    done = publish(ORDERS, model, verdict)
    assert (done.version, done.aliases) == (1, ("candidate",))
    assert len(kubeflow.versions) == 1


def test_sixteen_publishers_make_one_version(kubeflow: State, model: Path, judged: Judged) -> None:
    verdict = judged(model)
    processes = [run(model, verdict), run(model, verdict)]
    said = [line for p in processes for line in p.communicate(timeout=250)[0].splitlines()]
    assert len(said) == 16
    assert {line.split()[0] for line in said} == {"1"}
    assert sum(line.endswith("True") for line in said) == 1
    assert [v.aliases for v in open_registry("our_orders").all()] == [("candidate",)]
    assert len(kubeflow.versions) == 1


def test_the_move_of_another_alias_at_the_same_moment_costs_none(
    kubeflow: State, model: Path, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(ORDERS, model, judged(model))
    versions, real = open_registry("our_orders"), model_registry.set_model_properties

    async def late(api: Any, old: Any, properties: Any) -> None:
        """Both have read the properties; ours are written first, and theirs take them back."""
        await real(api, old, properties)
        monkeypatch.setattr(model_registry, "set_model_properties", real)
        await real(api, old, {"retain.alias.staging": "1"})

    monkeypatch.setattr(model_registry, "set_model_properties", late)
    versions.set_alias("champion", 1)
    assert versions.pick("1").aliases == ("candidate", "champion", "staging")


def test_a_newer_server_speaks_v1(kubeflow: State, model: Path, judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    with serve("v1") as (address, newer):
        monkeypatch.setenv("RETAIN_MODEL_REGISTRY", address)
        assert publish(ORDERS, model, judged(model)).version == 1
        assert (len(newer.versions), newer.odd, kubeflow.versions) == (1, [], {})


def test_a_registry_that_is_away_or_refuses_is_said_without_its_token(
    kubeflow: State, model: Path, judged: Judged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = judged(model)

    def refused(told: str, kind: type[Exception] = EnvironmentFault) -> None:
        with pytest.raises(kind, match=told) as caught:
            publish(ORDERS, model, verdict)
        assert "hunter2" not in str(caught.value)

    (tmp_path / "token").write_text("hunter2-wrong")
    refused("401 who are you")
    with monkeypatch.context() as away:
        away.setenv("RETAIN_MODEL_REGISTRY", "http://127.0.0.1:9")
        refused("was not reached")
        away.setenv("RETAIN_MODEL_REGISTRY", "127.0.0.1")
        refused("no address of a model registry", ConfigError)
        away.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "nothing"))
        away.setenv("RETAIN_MODEL_REGISTRY", "http://127.0.0.1:9")
        refused("no token for the model registry", ConfigError)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "mr_openapi.exceptions", None)
        refused("needs its client")
    (tmp_path / "token").write_text(TOKEN)
    assert kubeflow.versions == {}
    assert publish(ORDERS, model, verdict).version == 1
