"""The one house of MLflow: a parent run per pipeline run, a nested run per stage, and a journal that outlives the server.

Everything a stage says is first written to ``metrics.jsonl`` in the home folder and sent from there, so that a server
that is away for an hour costs nothing: work goes on, and the next stage (or :func:`send_kept`) sends what is left. Sending
twice is harmless: MLflow keeps one point per (metric, step, time, value).

Environment: ``MLFLOW_TRACKING_URI`` (default: a sqlite file in the home folder), ``MLFLOW_EXPERIMENT_NAME`` (default
``retain``), ``RETAIN_RUN_ID`` (which pipeline run this process belongs to), ``RETAIN_HOME``, ``RETAIN_TRACKING=later``
(only write the journal: on a laptop one process sends them all at the end of the run, and no step pays MLflow's import).
"""

import json
import logging
import os
import re
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from retain.errors import Interrupted
from retain.journal import Journal
from retain.locks import locked

PARAM_CHARACTERS, TAG_CHARACTERS, KEY_CHARACTERS, DATASET_DIGEST_CHARACTERS = 6000, 8000, 250, 36  # MLflow's limits
METRICS_PER_REQUEST, PARAMS_PER_REQUEST = 1000, 100
SEND_EVERY_SECONDS, ASK_AGAIN_AFTER_SECONDS = 5.0, 60.0
PIPELINE = "pipeline"  # the stage name of the parent run itself


def home() -> Path:
    """Where a machine keeps its runs, its local registry and its caches."""
    from platformdirs import user_data_path

    return Path(os.environ.get("RETAIN_HOME") or user_data_path("retain"))


def tracking_uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home().absolute()}/mlflow.db"


def run_id() -> str:
    """The pipeline run this process belongs to; a process on its own gets an identity of its own, kept for its children."""
    return os.environ.setdefault("RETAIN_RUN_ID", f"local-{uuid.uuid4().hex[:12]}")


def client() -> Any:
    """An MlflowClient whose store is ready; a local sqlite file is made once, however many processes ask at once."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout belongs to --json
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = tracking_uri()
    registry = os.environ.get("MLFLOW_REGISTRY_URI") or uri
    if not uri.startswith("sqlite:"):
        return MlflowClient(tracking_uri=uri, registry_uri=registry)
    with locked(Path(f"{_database(uri)}.lock")):
        made = MlflowClient(tracking_uri=uri, registry_uri=registry)
        made.search_experiments(max_results=1)
        return made


def _database(uri: str) -> Path:
    """The file of ``sqlite:///relative`` or ``sqlite:////absolute``."""
    return Path(urlparse(uri).path[1:])


def away_errors() -> tuple[type[Exception], ...]:
    """What a server that cannot be reached, or a package that is not installed, raises."""
    try:
        from mlflow.exceptions import MlflowException
    except ImportError:
        return (ImportError, OSError)
    return (ImportError, OSError, MlflowException)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested recipe as MLflow params: ``train.lora.r`` → ``16``; lists as JSON; long values are cut, with a mark."""
    result: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            result.update(flat(value, f"{prefix}{key}."))
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            result[_key(f"{prefix}{key}")] = _cut(text, PARAM_CHARACTERS)
    return result


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _key(name: str) -> str:
    return re.sub(r"[^\w\-. /:]", "_", name)[:KEY_CHARACTERS]


class Stage:
    """What one stage of one run says. Every word is on disk before it is sent; nothing here can stop a training."""

    def __init__(self, name: str, run: str, folder: Path) -> None:
        self.name, self.run, self.folder = name, run, folder
        self.journal = Journal(folder / "metrics.jsonl")
        self._send_at = 0.0
        self.journal.add("begin", run=run, stage=name, time=_now())

    def params(self, values: Mapping[str, Any]) -> None:
        """Settings, nested or flat; what was set once stays (MLflow's rule), a changed value on a retry becomes a tag."""
        self._say("params", values=flat(values))

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Numbers with their unit in the name, e.g. ``train_loss_nats``."""
        self._say("metrics", values={_key(k): float(v) for k, v in values.items()}, step=step, time=_now())

    def tags(self, values: Mapping[str, str]) -> None:
        self._say("tags", values={_key(k): _cut(str(v), TAG_CHARACTERS) for k, v in values.items()})

    def dataset(self, name: str, digest: str, *, context: str, source: str = "") -> None:
        """An input with its content digest; ``context`` says its use: training, replay, target, evaluation."""
        self._say("dataset", name=name[:500], digest=digest, context=context, source=source)

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file (or folder) to lie beside the run; it is sent as it is at that moment."""
        self._say("artifact", path=str(path.absolute()), folder=folder)

    def _say(self, what: str, **values: Any) -> None:
        self.journal.add(what, **values)
        if time.monotonic() >= self._send_at:
            self.send()

    def send(self) -> bool:
        """Send what is kept; False (and one line on stderr) where the server is away."""
        if os.environ.get("RETAIN_TRACKING") == "later":
            return True
        try:
            self.journal.send(_deliver)
        except away_errors() as error:
            self._send_at = time.monotonic() + ASK_AGAIN_AFTER_SECONDS
            sys.stderr.write(f"tracking: not reached ({_brief(error)}); kept in {self.journal.path}, sent later\n")
            return False
        self._send_at = time.monotonic() + SEND_EVERY_SECONDS
        return True

    def end(self, status: str) -> None:
        self.journal.add("end", status=status, time=_now())
        self.send()


def _brief(error: Exception) -> str:
    """The first line of an error, without a user name or password that a URI in it may carry."""
    return re.sub(r"//[^/@\s]+@", "//", str(error).partition("\n")[0])[:200] or type(error).__name__


@contextmanager
def stage(name: str, *, run: str = "", domain: str = "") -> Iterator[Stage]:
    """The nested MLflow run of a stage (found again on a retry), under the parent run tagged ``retain.run_id``.

    domain: of a stage that a run has once for each domain.

    >>> with stage("train") as tracked:           # doctest: +SKIP
    ...     tracked.metrics({"train_loss_nats": 1.2}, step=10)
    """
    run = run or run_id()
    name = f"{name}-{domain}" if domain else name
    tracked = Stage(name, run, home() / "runs" / _safe(run) / _safe(name))
    try:
        yield tracked
    except (KeyboardInterrupt, Interrupted):
        tracked.end("KILLED")
        raise
    except BaseException:
        tracked.end("FAILED")
        raise
    tracked.end("FINISHED")


def parent(*, run: str = "") -> Stage:
    """The pipeline run itself: for the resolved recipe as params, the summary metrics, and ``end("FINISHED")``."""
    run = run or run_id()
    return Stage(PIPELINE, run, home() / "runs" / _safe(run) / PIPELINE)


def send_kept(*, run: str = "") -> int:
    """Send every journal of this home (or of one run) that has something left; returns how many are still kept."""
    journals = [Journal(p) for p in sorted(home().glob(f"runs/{_safe(run) if run else '*'}/*/metrics.jsonl"))]
    kept = [journal for journal in journals if journal.waiting()]
    try:
        for journal in kept:
            journal.send(_deliver)
    except away_errors():
        return sum(journal.waiting() for journal in kept)
    return 0


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)


def _now() -> int:
    return int(time.time() * 1000)


def _deliver(first: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    _Sender(client(), first["run"], first["stage"], first["time"]).send(lines)


class _Sender:
    """Turns journal lines into MLflow requests."""

    def __init__(self, mlflow: Any, run: str, name: str, started: int) -> None:
        # MLflow's query language has no escape for a quote.
        self.mlflow, self.run, self.name, self.started = mlflow, run.replace("'", "_"), name.replace("'", "_"), started
        self.experiment = experiment(mlflow, os.environ.get("MLFLOW_EXPERIMENT_NAME") or "retain")
        with locked(home() / "mlflow-runs.lock"):
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


def experiment(mlflow: Any, name: str) -> str:
    """The id of an experiment, made where it is missing."""
    found = mlflow.get_experiment_by_name(name)
    if found is None:
        uri = tracking_uri()
        place = f"file://{_database(uri).absolute().parent}/artifacts" if uri.startswith("sqlite:") else None
        with locked(home() / "experiment.lock"):
            found = mlflow.get_experiment_by_name(name)
            return found.experiment_id if found else str(mlflow.create_experiment(name, artifact_location=place))
    return str(found.experiment_id)
