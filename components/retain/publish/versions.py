"""Versions and aliases of a registered model, whoever keeps them: MLflow's registry, or Kubeflow's where its address is given."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from retain import model_registry
from retain.errors import ConfigError

DIGEST, VERDICT, BASELINES, LINEAGE = "retain.digest", "retain.verdict", "retain.baselines", "retain.lineage"
JUDGED = "retain.verdict_digest"
CHAMPION = "champion"


@dataclass(frozen=True)
class Version:
    """One registered version. created: milliseconds since 1970."""

    name: str
    version: int
    source: str
    digest: str
    created: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]


class Registry(ABC):
    """The versions of one registered model. Every call raises EnvironmentFault (8) where the registry is away."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def all(self) -> list[Version]:
        """Every whole version with a digest of ours, oldest first."""

    @abstractmethod
    def create(self, source: str, digest: str, tags: Mapping[str, str]) -> tuple[Version, bool]:
        """(the version of these weights, whether this call made it): of many callers at once exactly one makes it."""

    @abstractmethod
    def set_alias(self, alias: str, version: int) -> None:
        """Let the alias stand on this version, and on no other."""

    @abstractmethod
    def set_tags(self, version: int, tags: Mapping[str, str]) -> None:
        """Add to a version's tags."""

    def find(self, digest: str) -> Version | None:
        """The first version of these weights."""
        return next((v for v in self.all() if v.digest == digest), None)

    def by_alias(self, alias: str) -> Version | None:
        return next((v for v in self.all() if alias in v.aliases), None)

    def pick(self, which: str) -> Version:
        """A version by its number, its alias or (the beginning of) its digest."""
        known = self.all()
        if not known:
            raise ConfigError("no model is registered under this name", got=self.name, fix="check the name, and MLFLOW_TRACKING_URI (or RETAIN_HOME): where was it registered?")  # fmt: skip
        fits = [v for v in known if which in {str(v.version), *v.aliases} or v.digest == which]
        fits = fits or [v for v in known if len(which) >= 6 and v.digest.removeprefix("sha256:").startswith(which.removeprefix("sha256:"))]  # fmt: skip
        if len(fits) != 1:
            have = ", ".join(f"{v.version} ({'/'.join(v.aliases) or v.digest[7:19]})" for v in known)
            raise ConfigError("no such version", where=self.name, got=which, expected=have)
        return fits[0]


def open_registry(name: str) -> Registry:
    """The registered model ``name``, where this machine's environment says that models are registered."""
    if model_registry.address():
        from retain.publish.kubeflow_versions import KubeflowRegistry

        return KubeflowRegistry(name)
    from retain.publish.mlflow_versions import MlflowRegistry

    return MlflowRegistry(name)
