"""The engine and the images of these very sources; without them the tests are skipped, and say so."""

from collections.abc import Iterator
from typing import Any

import pytest

from retain import images
from retain.errors import EnvironmentFault
from retain_pipelines import containers


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """docker's client, with both images built."""
    try:
        containers.check()
    except EnvironmentFault as fault:
        pytest.skip(f"NOTHING WAS RUN IN A CONTAINER: {fault}")
    import docker

    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(params=images.KINDS)
def image(engine: Any, request: pytest.FixtureRequest) -> str:
    """The name of each built image in turn."""
    return images.built(request.param)
