"""Versions and aliases in the MLflow registry; the client is made by :mod:`retain.tracking`, MLflow's one house."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_random_exponential

from retain import tracking
from retain.errors import EnvironmentFault
from retain.publish.versions import DIGEST, Registry, Version

SECONDS = 60  # for which a call that failed is tried again


@contextmanager
def reached(doing: str) -> Iterator[None]:
    """MLflow's errors as ours (exit 8), without any credential of its address."""
    try:
        yield
    except tracking.away_errors() as error:
        text = str(error).partition("\n")[0][:300]
        raise EnvironmentFault(f"the registry failed while {doing}", got=text, fix="check MLFLOW_TRACKING_URI, its credentials and the server, then run the same command again") from error  # fmt: skip


def _again(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Publishers at once collide on the next number, on an alias's row or on a sqlite file: each tries again a moment later."""
    retrying = Retrying(
        retry=retry_if_exception_type(tracking.away_errors()), stop=stop_after_attempt(8) | stop_after_delay(SECONDS), wait=wait_random_exponential(0.05, 2), reraise=True,
    )  # fmt: skip
    return retrying(call, *arguments, **named)


class MlflowRegistry(Registry):
    """The versions of one registered model in MLflow."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        with reached("connecting"):
            self._mlflow = tracking.client()

    def all(self) -> list[Version]:
        with reached("listing versions"):
            return sorted((v for v in self._pages() if v.digest), key=lambda v: v.version)

    def _pages(self) -> Iterator[Version]:
        aliases: dict[int, list[str]] = {}
        if (model := self._model()) is None:
            return
        for alias, number in dict(model.aliases).items():
            aliases.setdefault(int(number), []).append(alias)
        token = None
        while True:
            page = self._mlflow.search_model_versions(f"name = '{self.name}'", max_results=200, page_token=token)
            for found in page:
                yield _version(found, tuple(sorted(aliases.get(int(found.version), ()))))
            token = page.token
            if not token:
                return

    def _model(self) -> Any:
        found = self._mlflow.search_registered_models(f"name = '{self.name}'", max_results=1)
        return found[0] if found else None

    def create(self, source: str, digest: str, tags: Mapping[str, str]) -> tuple[Version, bool]:
        """Versions are numbered in the order they are committed, so the lowest of a digest is the same for everybody; who
        finds a lower one than its own takes its own back."""
        if found := self.find(digest):
            return found, False
        with reached("creating the version"):
            if self._model() is None:
                self._create_model()
            version = _again(self._mlflow.create_model_version, self.name, source=source, tags={**tags, DIGEST: digest})
            made = int(version.version)
        first = self.find(digest)
        if first is not None and first.version < made:
            with reached("taking back a second version"):
                self._mlflow.delete_model_version(self.name, str(made))
            return first, False
        return self.pick(str(made)), True

    def _create_model(self) -> None:
        try:
            self._mlflow.create_registered_model(self.name)
        except tracking.away_errors() as error:
            if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":  # another publisher was first
                raise

    def set_alias(self, alias: str, version: int) -> None:
        with reached(f"moving the alias {alias}"):
            _again(self._mlflow.set_registered_model_alias, self.name, alias, str(version))

    def set_tags(self, version: int, tags: Mapping[str, str]) -> None:
        with reached("tagging the version"):
            for key, value in tags.items():
                self._mlflow.set_model_version_tag(self.name, str(version), key, value)


def _version(found: Any, aliases: tuple[str, ...]) -> Version:
    return Version(found.name, int(found.version), found.source, found.tags.get(DIGEST, ""), int(found.creation_timestamp), aliases, dict(found.tags))  # fmt: skip
