"""What a stage's journal says, as MLflow requests: its half of retain.tracking that speaks to the server."""

import json
import sys
from pathlib import Path
from typing import Any

from retain.locks import locked

DATASET_DIGEST_CHARACTERS = 36  # MLflow's limits
METRICS_PER_REQUEST, PARAMS_PER_REQUEST = 1000, 100
PIPELINE = "pipeline"  # the stage name of the parent run itself


class Sender:
    """The MLflow run of stage ``name`` in pipeline run ``run``, found or made under ``lock`` (a file of this home)."""

    def __init__(self, mlflow: Any, experiment: str, lock: Path, run: str, name: str, started: int) -> None:
        # MLflow's query language has no escape for a quote.
        self.mlflow, self.run, self.name, self.started = mlflow, run.replace("'", "_"), name.replace("'", "_"), started
        self.experiment = experiment
        with locked(lock):
            self.id = self._find_or_make(PIPELINE, "")
            if name != PIPELINE:
                self.id = self._find_or_make(self.name, self.id)

    def _find_or_make(self, name: str, above: str) -> str:
        found = self._find(name)
        if found:
            return found
        tags = {
            "retain.run_id": self.run,
            "retain.stage": name,
            "mlflow.runName": self.run if name == PIPELINE else name,
        }
        tags |= {"mlflow.parentRunId": above} if above else {}
        made = self.mlflow.create_run(self.experiment, start_time=self.started, tags=tags).info.run_id
        # Two pods may start at once: they then agree on the earliest one, and the other is removed.
        first = self._find(name) or made
        if first != made:
            self.mlflow.delete_run(made)
        return str(first)

    def _find(self, name: str) -> str:
        query = f"tags.`retain.run_id` = '{self.run}' and tags.`retain.stage` = '{name}'"
        runs = self.mlflow.search_runs([self.experiment], query)
        return min(((r.info.start_time, r.info.run_id) for r in runs), default=(0, ""))[1]

    def send(self, lines: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(key, value, line["time"], line["step"])
            for line in lines if line["what"] == "metrics" for key, value in line["values"].items()
        ]  # fmt: skip
        for at in range(0, len(points), METRICS_PER_REQUEST):
            self.mlflow.log_batch(self.id, metrics=points[at : at + METRICS_PER_REQUEST])
        for line in lines:
            if line["what"] != "metrics":
                getattr(self, f"_{line['what']}")(line)

    def _begin(self, line: dict[str, Any]) -> None:
        self.mlflow.update_run(self.id, status="RUNNING")

    def _end(self, line: dict[str, Any]) -> None:
        self.mlflow.set_terminated(self.id, status=line["status"], end_time=line["time"])

    def _params(self, line: dict[str, Any]) -> None:
        from mlflow.entities import Param

        known = self.mlflow.get_run(self.id).data.params
        new = [Param(key, value) for key, value in line["values"].items() if key not in known]
        for at in range(0, len(new), PARAMS_PER_REQUEST):
            self.mlflow.log_batch(self.id, params=new[at : at + PARAMS_PER_REQUEST])
        changed = {f"changed.{k}": v for k, v in line["values"].items() if k in known and known[k] != v}
        self._tags({"values": changed})

    def _tags(self, line: dict[str, Any]) -> None:
        for key, value in line["values"].items():
            self.mlflow.set_tag(self.id, key, value)

    def _dataset(self, line: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        short = line["digest"].removeprefix("sha256:")[:DATASET_DIGEST_CHARACTERS]
        source = json.dumps({"uri": line["source"] or line["name"]})
        tags = [InputTag("mlflow.data.context", line["context"]), InputTag("retain.digest", line["digest"])]
        dataset = Dataset(line["name"], short, source_type="local", source=source)
        self.mlflow.log_inputs(self.id, [DatasetInput(dataset, tags)])

    def _artifact(self, line: dict[str, Any]) -> None:
        path = Path(line["path"])
        if path.is_dir():
            self.mlflow.log_artifacts(self.id, str(path), line["folder"] or path.name)
        elif path.is_file():
            self.mlflow.log_artifact(self.id, str(path), line["folder"] or None)
        else:
            sys.stderr.write(f"tracking: {path} is gone before it could be sent\n")
