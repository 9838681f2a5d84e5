"""Versions and aliases in Kubeflow's Model Registry; the client has its house in :mod:`retain.model_registry`.

A version is a ModelVersion named by its number, with one model artifact. It has no aliases: they are custom properties of
the registered model, and moving one is a single request.
"""

import random
import time
from collections.abc import Mapping
from typing import Any

from retain import model_registry as house
from retain.errors import EnvironmentFault
from retain.publish.versions import DIGEST, Registry, Version

TRIES, PAUSE_SECONDS = 40, 0.2


class KubeflowRegistry(Registry):
    """The versions of one registered model in Kubeflow's Model Registry."""

    def all(self) -> list[Version]:
        async def talk(api: Any) -> list[Version]:
            model = await house.find_model(api, self.name)
            kept = await house.find_versions(api, model) if model else []
            return [_version(self.name, v, _aliases(model, v.name)) for v in kept if v.state == "LIVE" and _digest(v)]

        return sorted(house.call("listing versions", talk), key=lambda v: v.version)

    def create(self, source: str, digest: str, tags: Mapping[str, str]) -> tuple[Version, bool]:
        """The number is the version's name and the digest is in its external id: the server gives each away once.

        A version is archived until it has its artifact; one that a killed publisher left so is finished by the next.
        """
        properties = {**tags, DIGEST: digest, house.SOURCE: source}
        for _ in range(TRIES):
            number, made = house.call("creating the version", lambda api: self._create(api, properties))
            if number:
                return self.pick(number), made
            time.sleep(random.uniform(0, PAUSE_SECONDS))
        raise EnvironmentFault("other publishers took every version number", where=self.name, fix="run the same command again")  # fmt: skip

    async def _create(self, api: Any, properties: Mapping[str, str]) -> tuple[str, bool]:
        """(number of the version of these weights, whether it is new); empty: another took the number at that moment."""
        model = await house.find_model(api, self.name) or await house.make_model(api, self.name)
        kept = await house.find_versions(api, model)
        found = next((v for v in kept if _digest(v) == properties[DIGEST]), None)
        made = None
        if found is None:
            number = str(1 + max((int(v.name) for v in kept if v.name.isdecimal()), default=0))
            made = await house.make_version(api, model, number, f"{self.name} {properties[DIGEST]}", properties)
        version = found or made
        if version is not None and version.state != "LIVE":
            await house.show(api, version, artifact=self.name)
        return (version.name if version else "", made is not None)

    def set_alias(self, alias: str, version: int) -> None:
        """The server replaces all properties at once: looked at afterwards, and done again where the move of another alias took it back."""

        key = house.ALIAS + alias

        async def talk(api: Any) -> bool:
            model = await house.find_model(api, self.name)
            before = house.properties_of(model).get(key)
            for _ in range(TRIES if before != str(version) else 0):
                await house.set_model_properties(api, model, {key: str(version)})
                model = await house.find_model(api, self.name)
                if house.properties_of(model).get(key) != before:  # ours, or somebody has moved it on since
                    return True
            return before == str(version)

        if not house.call(f"moving the alias {alias}", talk):
            raise EnvironmentFault(f"others kept the alias {alias} from moving", where=self.name, fix="run the same command again")  # fmt: skip

    def set_tags(self, version: int, tags: Mapping[str, str]) -> None:
        async def talk(api: Any) -> None:
            model = await house.find_model(api, self.name)
            for kept in await house.find_versions(api, model) if model else []:
                if kept.name == str(version):
                    await house.set_properties(api, kept, tags)

        house.call("tagging the version", talk)


def _digest(version: Any) -> str:
    return house.properties_of(version).get(DIGEST, "")


def _aliases(model: Any, number: str) -> tuple[str, ...]:
    kept = house.properties_of(model)
    return tuple(sorted(key.removeprefix(house.ALIAS) for key, value in kept.items() if key.startswith(house.ALIAS) and value == number))  # fmt: skip


def _version(name: str, found: Any, aliases: tuple[str, ...]) -> Version:
    tags = house.properties_of(found)
    return Version(name, int(found.name), tags.pop(house.SOURCE), tags[DIGEST], int(found.create_time_since_epoch), aliases, tags)  # fmt: skip
