"""The chart as Helm renders it: every example, and any values on top of the defaults."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from charts_of import CHART, EXAMPLES, Manifest, documents, example


@pytest.fixture(scope="session")
def chart() -> Iterator[helm_python.Chart]:
    with helm_python.Chart.load(CHART) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def render(chart: helm_python.Chart) -> Callable[..., list[Manifest]]:
    """render(values) → manifests of release ``retain`` in namespace ``retain``."""

    def rendered(values: dict[str, Any] | None = None, **options: Any) -> list[Manifest]:
        return documents(chart.render(values or {}, **{"name": "retain", "namespace": "retain", **options}))

    return rendered


@pytest.fixture(scope="session")
def rendered(render: Callable[..., list[Manifest]]) -> dict[str, list[Manifest]]:
    """The defaults and every example."""
    assert set(EXAMPLES) == {"minimal", "production", "air-gapped", "openshift"}
    return {name: render(example(name)) for name in ["defaults", *EXAMPLES]}


@pytest.fixture(scope="session")
def named(render: Callable[..., list[Manifest]]) -> Callable[..., Manifest]:
    """named(kind, name, values) → the one manifest of that kind and name."""

    def find(kind: str, name: str, values: dict[str, Any] | None = None) -> Manifest:
        (found,) = [m for m in render(values) if (m["kind"], m["metadata"]["name"]) == (kind, name)]
        return found

    return find
