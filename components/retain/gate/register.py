"""What the gate remembers between runs, where every machine sees it: each entry is an MLflow run of one experiment.

A run (and not a registered model) because a closed gate leaves no model behind, and because runs are found by their tags.
"""

from collections.abc import Mapping
from typing import Any

from retain import tracking
from retain.publish.mlflow_versions import reached

EXPERIMENT = "retain-gate"
KIND = "retain.kind"
PREFIX = "retain."


class Register:
    """Entries of one kind (``attempt``, ``waiver``); EnvironmentFault (8) where the tracking server cannot be reached."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        with reached("connecting"):
            self._mlflow = tracking.client()
            self._experiment = tracking.experiment(self._mlflow, EXPERIMENT)

    def find(self, **wanted: str) -> list[dict[str, str]]:
        """The entries with all of these values, oldest first; each has its own address as ``id``."""
        asked = {KIND: self.kind, **{PREFIX + name: value for name, value in wanted.items()}}
        query = " and ".join(f"tags.`{name}` = '{_plain(value)}'" for name, value in asked.items())
        with reached(f"looking for {self.kind}s"):
            return [_entry(run) for run in self._pages(query)]

    def _pages(self, query: str) -> list[Any]:
        found: list[Any] = []
        token = None
        while True:
            page = self._mlflow.search_runs([self._experiment], query, order_by=["attributes.start_time ASC"], page_token=token)  # fmt: skip
            found += page
            token = page.token
            if not token:
                return found

    def add(self, title: str, values: Mapping[str, str]) -> str:
        """Write an entry; the address it has. ``title`` is what a person sees in the list of runs."""
        tags = {KIND: self.kind, "mlflow.runName": title, **{PREFIX + name: value for name, value in values.items()}}
        with reached(f"writing the {self.kind}"):
            identity = str(self._mlflow.create_run(self._experiment, tags=tags).info.run_id)
            self._mlflow.set_terminated(identity)
        return identity

    def mark(self, identity: str, **values: str) -> None:
        """Add values to an entry, or change them."""
        with reached(f"writing the {self.kind}"):
            for name, value in values.items():
                self._mlflow.set_tag(identity, PREFIX + name, value)


def _plain(value: str) -> str:
    """MLflow's query language has no escape for a quote."""
    return value.replace("'", "_")


def _entry(run: Any) -> dict[str, str]:
    tags = {name.removeprefix(PREFIX): value for name, value in run.data.tags.items() if name.startswith(PREFIX)}
    return {**tags, "id": str(run.info.run_id)}
