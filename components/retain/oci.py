"""The one house of oras: a model folder as an OCI artifact, one layer a file, addressed by digest.

Credentials come from the docker configuration or from RETAIN_OCI_USER and RETAIN_OCI_PASSWORD; a registry on localhost is
spoken to without TLS.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from retain import digest
from retain.errors import ConfigError, EnvironmentFault, IntegrityError
from retain.s3 import inside

MEDIA = "application/vnd.retain.model.file.v1"
TITLE = "org.opencontainers.image.title"
CHUNK_BYTES = 16 << 20
ATTEMPTS = 5
WAIT_SECONDS = (10, 60)  # for a connection; for the next bytes of an answer


def split(uri: str) -> tuple[str, str]:
    """``oci://host/name@sha256:<hex>`` → (host/name, sha256:<hex>); the digest may be missing (a store's root)."""
    name, _, sha = uri.removeprefix("oci://").partition("@")
    if "/" not in name or (sha and not re.fullmatch(r"sha256:[0-9a-f]{64}", sha)):
        raise ConfigError("this is no OCI address", got=uri, expected="oci://registry/name@sha256:<64 hex>")
    return name, sha


def _registry(name: str) -> Any:
    from oras.provider import Registry

    host = name.partition("/")[0]
    made = Registry(hostname=host, insecure=host.partition(":")[0] in {"localhost", "127.0.0.1"}, auth_backend="basic" if os.environ.get("RETAIN_OCI_USER") else "token")  # fmt: skip
    if user := os.environ.get("RETAIN_OCI_USER"):
        made.auth.set_basic_auth(user, os.environ.get("RETAIN_OCI_PASSWORD", ""))
    for scheme in ("http://", "https://"):
        made.session.mount(scheme, _waiting())
    made.do_request = _patient(partial(Registry.do_request.__wrapped__, made))
    return made


def _waiting() -> Any:
    """oras (0.2) waits for ever for a registry that takes a connection and says nothing."""
    from requests.adapters import HTTPAdapter

    class Waiting(HTTPAdapter):
        def send(self, request: Any, **how: Any) -> Any:  # type: ignore[override]
            return super().send(request, **{**how, "timeout": how.get("timeout") or WAIT_SECONDS})

    return Waiting()


def _patient(send: Callable[..., Any]) -> Callable[..., Any]:
    """``send`` tried again after resets and 5xx for some seconds; oras (0.2) would try for two minutes."""
    from requests.exceptions import ConnectionError as Cut
    from requests.exceptions import Timeout
    from tenacity import Retrying, retry_if_exception_type, retry_if_result, stop_after_attempt, wait_random_exponential

    def last(state: Any) -> Any:
        return state.outcome.result()

    failed = retry_if_exception_type((Cut, Timeout)) | retry_if_result(lambda answer: answer.status_code >= 500)
    retrying = Retrying(retry=failed, stop=stop_after_attempt(ATTEMPTS), wait=wait_random_exponential(0.2, 4), retry_error_callback=last)  # fmt: skip
    return lambda *arguments, **named: retrying(send, *arguments, **named)


@contextmanager
def explained(where: str) -> Iterator[None]:
    try:
        yield
    except (
        OSError,
        ValueError,
    ) as error:  # requests' errors are OSErrors, oras raises ValueError for answers it did not expect
        fix = "check the address, the registry and its credentials"
        raise EnvironmentFault("the OCI registry did not answer as it should", where=where, got=str(error).partition("\n")[0][:300], fix=fix) from error  # fmt: skip


def push(root: str, folder: Path, files: Mapping[str, str], extras: Mapping[str, bytes], tag: str) -> str:
    """Upload ``files`` (relative path → hex sha256) and ``extras``; returns the address by digest.

    A blob is only accepted by the registry if it has the digest it is announced with; one that is there is not sent again.
    """
    import tempfile

    name, _ = split(root)
    with explained(root), tempfile.TemporaryDirectory() as aside:
        registry = _registry(name)
        container = registry.get_container(f"{name}:{tag}")
        registry.auth.load_configs(container)
        sources = {path: folder / path for path in files}
        for path, data in {**extras, ".config": b"{}"}.items():
            sources[path] = Path(aside) / path
            sources[path].write_bytes(data)
        layers = {path: _layer(path, source, files.get(path, "")) for path, source in sources.items()}
        for path, layer in layers.items():
            if not registry.blob_exists(layer, container):
                _ok(_upload(registry, sources[path], container, layer), path)
        config = layers.pop(".config")
        config = {**{k: config[k] for k in ("digest", "size")}, "mediaType": "application/vnd.oci.empty.v1+json"}
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": "application/vnd.retain.model.v1", "config": config, "layers": list(layers.values())}  # fmt: skip
        answer = registry.upload_manifest(manifest, container)
        _ok(answer, "manifest")
    return f"oci://{name}@{digest.of_bytes(answer.request.body if isinstance(answer.request.body, bytes) else answer.request.body.encode())}"


def _upload(registry: Any, source: Path, container: Any, layer: dict[str, Any]) -> Any:
    """A large file goes in pieces (memory: one); to a registry that takes none, as a whole (memory: the file)."""
    if layer["size"] > CHUNK_BYTES:
        with suppress(ValueError):
            return registry.chunked_upload(str(source), container, layer, chunk_size=CHUNK_BYTES)
    return registry.put_upload(str(source), container, layer)


def _layer(path: str, source: Path, sha: str) -> dict[str, Any]:
    found = f"sha256:{sha}" if sha else digest.of_file(source)
    return {"mediaType": MEDIA, "size": source.stat().st_size, "digest": found, "annotations": {TITLE: path}}


def _ok(answer: Any, what: str) -> None:
    if answer.status_code not in {200, 201, 202}:
        raise EnvironmentFault("the OCI registry refused an upload", where=what, got=f"status {answer.status_code}", fix="check the credentials and the registry's disk")  # fmt: skip


def layers(uri: str) -> dict[str, dict[str, Any]]:
    """File name → layer of the artifact at ``uri``; its manifest must have the digest of the address."""
    name, sha = split(uri)
    with explained(uri):
        registry = _registry(name)
        container = registry.get_container(f"{name}@{sha}")
        registry.auth.load_configs(container)
        answer = registry.do_request(f"{registry.prefix}://{container.manifest_url()}", "GET", headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})  # fmt: skip
        _ok(answer, uri)
    if digest.of_bytes(answer.content) != sha:
        raise IntegrityError("the registry gave another manifest", where=uri, got=digest.of_bytes(answer.content), expected=sha)  # fmt: skip
    return {layer["annotations"][TITLE]: layer for layer in json.loads(answer.content)["layers"]}


def identity(uri: str) -> str:
    """An address by digest names its content."""
    sha = split(uri)[1]
    if not sha:
        raise ConfigError("an OCI artifact is taken by its digest, a tag may move", got=uri, expected="oci://registry/name@sha256:<64 hex>")  # fmt: skip
    return sha


def check(uri: str) -> dict[str, str]:
    """Read every file of the artifact back: relative path → hex sha256 of what came (memory: 1 MiB)."""
    name, sha = split(uri)
    found = {}
    with explained(uri):
        registry = _registry(name)
        container = registry.get_container(f"{name}@{sha}")
        registry.auth.load_configs(container)
        for path, layer in layers(uri).items():
            body = hashlib.sha256()
            with registry.get_blob(container, layer["digest"], stream=True) as answer:
                _ok(answer, path)
                for chunk in answer.iter_content(1 << 20):
                    body.update(chunk)
            found[path] = body.hexdigest()
    return found


def pull(uri: str, folder: Path) -> None:
    """All files of the artifact into ``folder``; every one must have its layer's digest."""
    name, sha = split(uri)
    found = layers(uri)
    with explained(uri):
        registry = _registry(name)
        container = registry.get_container(f"{name}@{sha}")
        registry.auth.load_configs(container)
        for path, layer in found.items():
            target = inside(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            registry.download_blob(container, layer["digest"], str(target))
            if (got := digest.of_file(target)) != layer["digest"]:
                raise IntegrityError("a file of an OCI artifact is damaged", where=path, got=got, expected=layer["digest"])  # fmt: skip
