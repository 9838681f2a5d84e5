"""The one house of Kubeflow's Model Registry: its generated client (``mr_openapi``, of the package model-registry).

The address is RETAIN_MODEL_REGISTRY (``https://host[:port]``); the token lies in the file that KF_PIPELINES_SA_TOKEN_PATH
names, or is the pod's own; certificates come from SSL_CERT_FILE. None of them is ever put into a message.

What the server does, and why things are done so here (https://github.com/kubeflow/model-registry, read at bd07139): a name is
looked up with LIKE, so ``a_b`` finds ``a-b`` too, and an exact filter is used instead; an update replaces all custom
properties; empty values are refused; names of versions (within a model) and external ids are unique; nothing is deleted.
The API is the same as v1alpha3 and as v1; clients from 0.3.15 on speak only v1, so the version in the path is put in here.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from retain.errors import ConfigError, EnvironmentFault

ADDRESS, TOKEN_FILE = "RETAIN_MODEL_REGISTRY", "KF_PIPELINES_SA_TOKEN_PATH"
POD_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
SECONDS, PAGE = 60, "100"
SOURCE = "retain.source"  # property of a version: where its files lie
ALIAS = "retain.alias."  # property of a model: alias → the number of a version
FIX = f"check {ADDRESS}, the server and the token's rights, then run the same command again"

VERSIONS = ("v1", "v1alpha3")
_PATH = re.compile(r"(/api/model_registry/)[^/]+/")
_spoken: dict[str, str] = {}  # address → the version of the API that is spoken there

T = TypeVar("T")
Api = Any  # mr_openapi.ModelRegistryServiceApi


def address() -> str:
    """Where the registry is; empty: MLflow keeps the versions."""
    return os.environ.get(ADDRESS, "").rstrip("/")


def call(doing: str, talk: Callable[[Api], Awaitable[T]]) -> T:
    """One conversation with the registry, in a thread of its own: the caller's may have a running loop (a notebook has)."""
    with _explained(doing), ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, asyncio.wait_for(_connected(talk), SECONDS)).result()


async def _connected(talk: Callable[[Api], Awaitable[T]]) -> T:
    if address() not in _spoken:
        _spoken[address()] = await _version()
    async with _api(_spoken[address()]) as api:
        return await talk(api)


async def _version() -> str:
    """The first version of the API that the server knows; a server that knows it has this list, be it empty."""
    from mr_openapi.exceptions import NotFoundException

    for version in VERSIONS[:-1]:
        with suppress(NotFoundException):
            async with _api(version) as api:
                await api.get_registered_models(page_size="1")
                return version
    return VERSIONS[-1]


@asynccontextmanager
async def _api(version: str) -> AsyncIterator[Api]:
    from mr_openapi import ApiClient, Configuration, ModelRegistryServiceApi

    async with ApiClient(Configuration(host=address(), access_token=_token())) as client:
        send = client.call_api
        client.call_api = lambda method, url, *rest, **named: send(method, _PATH.sub(rf"\g<1>{version}/", url, count=1), *rest, **named)  # fmt: skip
        yield ModelRegistryServiceApi(client)


def _token() -> str | None:
    path = Path(os.environ.get(TOKEN_FILE) or POD_TOKEN)
    if path.is_file():
        return path.read_text(encoding="utf-8").strip()
    if TOKEN_FILE in os.environ:
        raise ConfigError("there is no token for the model registry", where=TOKEN_FILE, got=path)
    return None


@contextmanager
def _explained(doing: str) -> Iterator[None]:
    try:
        from aiohttp import ClientError
        from mr_openapi.exceptions import ApiException
    except ImportError as error:
        raise EnvironmentFault("Kubeflow's registry needs its client", got=error, fix="pip install 'retain[kubeflow]'") from None  # fmt: skip
    if not address().startswith(("http://", "https://")):
        raise ConfigError("this is no address of a model registry", where=ADDRESS, got=address(), expected="http://host[:port] or https://host[:port]")  # fmt: skip
    try:
        yield
    except ApiException as error:
        raise EnvironmentFault(f"the model registry failed while {doing}", where=address(), got=f"{error.status} {_said(error)}", fix=FIX) from None  # fmt: skip
    except (ClientError, OSError) as error:
        raise EnvironmentFault(f"the model registry was not reached while {doing}", where=address(), got=str(error)[:200] or type(error).__name__, fix=FIX) from None  # fmt: skip


def _said(error: Any) -> str:
    """The server's own words; its answer's headers are nobody's business."""
    try:
        return str(json.loads(error.body)["message"])[:200]
    except (TypeError, ValueError, KeyError):
        return str(error.reason or "")[:200]


async def find_model(api: Api, name: str) -> Any | None:
    """The registered model called exactly ``name``."""
    found = await api.get_registered_models(filter_query=f'name = "{name}"', page_size="1")
    return found.items[0] if found.items else None


async def make_model(api: Api, name: str) -> Any:
    """The registered model ``name``, made by this call or by another at the same time."""
    from mr_openapi import RegisteredModelCreate
    from mr_openapi.exceptions import ConflictException

    try:
        return await api.create_registered_model(RegisteredModelCreate(name=name))
    except ConflictException:
        return await find_model(api, name)


async def find_versions(api: Api, model: Any) -> list[Any]:
    """All versions of a model, archived ones too."""
    found, token = [], None
    while True:
        page = await api.get_registered_model_versions(model.id, page_size=PAGE, next_page_token=token)
        found += page.items
        token = page.next_page_token
        if not token:
            return found


async def make_version(api: Api, model: Any, name: str, external_id: str, properties: Mapping[str, str]) -> Any | None:
    """A version that is archived until :func:`show` shows it; None: another has its name or external id already."""
    from mr_openapi import ModelVersionCreate, ModelVersionState
    from mr_openapi.exceptions import ConflictException

    asked = ModelVersionCreate(
        name=name, externalId=external_id, registeredModelId=model.id, state=ModelVersionState.ARCHIVED, author="retain",
        customProperties=_typed(properties),
    )  # fmt: skip
    try:
        return await api.create_model_version(asked)
    except ConflictException:
        return None


async def show(api: Api, version: Any, artifact: str) -> None:
    """Give a version the artifact by which servers find its files (KServe: ``model-registry://model/version``), then make it live."""
    from mr_openapi import Artifact, ArtifactState, ModelArtifact, ModelVersionState, ModelVersionUpdate
    from mr_openapi.exceptions import ConflictException

    uri = properties_of(version)[SOURCE]
    made = ModelArtifact(name=artifact, uri=uri, artifactType="model-artifact", state=ArtifactState.LIVE, modelFormatName="huggingface")  # fmt: skip
    with suppress(ConflictException):  # an earlier try, or another publisher of the same model, came so far
        await api.upsert_model_version_artifact(version.id, Artifact(made))
    await api.update_model_version(version.id, ModelVersionUpdate(state=ModelVersionState.LIVE))


async def set_properties(api: Api, version: Any, properties: Mapping[str, str]) -> None:
    """Add to a version's custom properties; an empty value takes one away."""
    from mr_openapi import ModelVersionUpdate

    asked = ModelVersionUpdate(customProperties=_typed({**properties_of(version), **properties}), state=version.state)
    await api.update_model_version(version.id, asked)


async def set_model_properties(api: Api, model: Any, properties: Mapping[str, str]) -> None:
    """Add to a model's custom properties."""
    from mr_openapi import RegisteredModelUpdate

    asked = RegisteredModelUpdate(customProperties=_typed({**properties_of(model), **properties}), state=model.state)
    await api.update_registered_model(model.id, asked)


def _typed(properties: Mapping[str, str]) -> dict[str, Any]:
    from mr_openapi import MetadataStringValue, MetadataValue

    kind = "MetadataStringValue"
    return {key: MetadataValue(MetadataStringValue(string_value=value, metadataType=kind)) for key, value in properties.items() if value}  # fmt: skip


def properties_of(entity: Any) -> dict[str, str]:
    """The text properties of a model or a version."""
    values = {key: value.actual_instance for key, value in (entity.custom_properties or {}).items()}
    return {key: value.string_value for key, value in values.items() if hasattr(value, "string_value")}


def source_of(name: str, which: str, *, alias: bool) -> str:
    """The address of the files of a version, by its number or by an alias."""

    async def talk(api: Api) -> str:
        model = await find_model(api, name)
        number = properties_of(model).get(f"{ALIAS}{which}", "") if model and alias else which
        found = [v for v in await find_versions(api, model) if v.name == number and v.state == "LIVE"] if model else []
        return properties_of(found[0]).get(SOURCE, "") if found else ""

    found = call("looking for a version", talk)
    if not found:
        raise ConfigError("this registered model was not found", where=address(), got=f"{name} {which}", fix="retain history shows the versions and aliases that exist")  # fmt: skip
    return found
