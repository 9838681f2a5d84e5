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
from retain.sender import PIPELINE, Sender

PARAM_CHARACTERS, TAG_CHARACTERS, KEY_CHARACTERS = 6000, 8000, 250  # MLflow's limits
SEND_EVERY_SECONDS, ASK_AGAIN_AFTER_SECONDS = 5.0, 60.0


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
    mlflow = client()
    made = experiment(mlflow, os.environ.get("MLFLOW_EXPERIMENT_NAME") or "retain")
    Sender(mlflow, made, home() / "mlflow-runs.lock", first["run"], first["stage"], first["time"]).send(lines)


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
