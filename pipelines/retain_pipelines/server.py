"""The one house of kfp-server-api: a Kubeflow Pipelines server, with its faults in plain words.

Questions are asked again while a server is away; what creates something is sent once, and where its answer is lost, the
server is asked whether the thing is there, so that nothing is made twice or left half made.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from retain.errors import ConfigError, EnvironmentFault, RetainError, UsageError
from retain_pipelines.auth import Credentials

T = TypeVar("T")
CONNECT_SECONDS, READ_SECONDS = 10, 60
PATIENCE_SECONDS = 30.0  # how long a question is asked again
PAGE = 100
LOOKS, LOOK_SECONDS = 3, 2.0  # for what was sent and not answered
TRANSIENT = {408, 429, 500, 502, 503, 504}
LOGIN_FIX = "set RETAIN_KFP_TOKEN, RETAIN_KFP_COOKIE, or RETAIN_KFP_USERNAME and RETAIN_KFP_PASSWORD; an old session or token has to be renewed"


class Away(EnvironmentFault):
    """The server did not answer, or could not: what was asked may be asked again."""


class Gone(EnvironmentFault):
    """The server answers, and has no such thing."""


class Unknown(EnvironmentFault):
    """The answer was lost, and the server cannot be asked: what was sent may have been done."""


class Server:
    """One KFP server and one namespace. Every method raises EnvironmentFault (8), or UsageError (2) for a wrong argument."""

    def __init__(
        self, host: str, namespace: str, credentials: Credentials, *, patience: float = PATIENCE_SECONDS
    ) -> None:
        import kfp_server_api as kfp
        import urllib3

        self.host, self.namespace, self.patience = host.rstrip("/"), namespace, patience
        config = kfp.Configuration(host=self.host)
        config.retries = urllib3.Retry(total=0, redirect=False)  # a redirect leads to a login page
        config.ssl_ca_cert = credentials.ca_file or None
        if credentials.bearer():
            config.api_key["authorization"] = credentials.bearer()
            config.api_key_prefix["authorization"] = "Bearer"
            config.refresh_api_key_hook = lambda c: c.api_key.update(authorization=credentials.bearer())
        self.client = client = kfp.ApiClient(config, cookie=credentials.cookie or None)
        for name, value in credentials.headers.items():
            client.set_default_header(name, value)
        self.kfp = kfp
        self.runs, self.experiments = kfp.RunServiceApi(client), kfp.ExperimentServiceApi(client)
        self.schedules, self.pipelines = kfp.RecurringRunServiceApi(client), kfp.PipelineServiceApi(client)
        self.uploads = kfp.PipelineUploadServiceApi(client)

    def ask(
        self, what: str, call: Callable[..., T], *arguments: Any, patience: float | None = None,
        waiting: Callable[[Away], None] = lambda fault: None, **named: Any,
    ) -> T:  # fmt: skip
        """A question that changes nothing: asked again, with growing pauses, while the server is away.

        waiting: is told each fault that is followed by another attempt.
        """
        from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

        def told(state: Any) -> None:
            waiting(state.outcome.exception())

        patient = self.patience if patience is None else patience
        again = Retrying(
            retry=retry_if_exception_type(Away), stop=stop_after_delay(patient), reraise=True,
            wait=wait_exponential(multiplier=0.2, max=30), before_sleep=told,
        )  # fmt: skip
        return again(self.tell, what, call, *arguments, **named)

    def tell(self, what: str, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """One request, sent once."""
        with self.explained(what):
            answer = call(*arguments, **named, _request_timeout=(CONNECT_SECONDS, READ_SECONDS))
        kind = str(self.client.last_response.getheader("Content-Type") or "")
        if "html" in kind:  # a login page that says 200: kfp-server-api would read it as an empty answer
            raise EnvironmentFault(f"what answers there is no KFP server ({what})", where=self.host, got=kind, fix=LOGIN_FIX)  # fmt: skip
        return answer

    def make(
        self, what: str, there: Callable[[], T | None], call: Callable[..., T], *arguments: Any, **named: Any
    ) -> T:
        """Create something once; where the answer is lost, ``there`` says whether it was created all the same."""
        try:
            return self.tell(what, call, *arguments, **named)
        except Away as lost:
            found = self._made_after_all(what, there)
            if found is None:
                raise EnvironmentFault(lost.what, where=lost.where, got=lost.got, fix="nothing was created; start again when the server is well") from None  # fmt: skip
            return found

    def _made_after_all(self, what: str, there: Callable[[], T | None]) -> T | None:
        """Looked for more than once: a slow server may still be at work on what it did not answer."""
        try:
            for _ in range(LOOKS):
                if (found := there()) is not None:
                    return found
                time.sleep(LOOK_SECONDS)
        except Away as away:
            raise Unknown(f"the answer was lost, and the server is away ({what})", where=self.host, got=away.got, fix="look in the UI whether it was created before you start again") from None  # fmt: skip
        return None

    def named(self, what: str, call: Callable[..., Any], field: str, name: str, **where: Any) -> Any | None:
        """The newest thing whose ``display_name`` is ``name``, or None."""
        wanted = json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "string_value": name}]})
        answer = self.ask(what, call, filter=wanted, page_size=PAGE, sort_by="created_at desc", **where)
        return next((found for found in getattr(answer, field) or [] if found.display_name == name), None)

    def all(self, what: str, call: Callable[..., Any], field: str, *arguments: Any, **where: Any) -> list[Any]:
        """Every page of a list."""
        found: list[Any] = []
        token = ""
        while True:
            answer = self.ask(what, call, *arguments, page_size=PAGE, page_token=token, **where)
            found += getattr(answer, field) or []
            token = answer.next_page_token or ""
            if not token:
                return found

    @property
    def place(self) -> dict[str, str]:
        """The namespace as the API wants it: not at all on a server for a single user."""
        return {"namespace": self.namespace} if self.namespace else {}

    def experiment(self, name: str) -> tuple[str, bool]:
        """(id of the experiment, whether it was made now)."""

        def there() -> Any | None:
            return self.named("looking for the experiment", self.experiments.experiment_service_list_experiments, "experiments", name, **self.place)  # fmt: skip

        found, made = there(), False
        if found is None:
            wanted = self.kfp.V2beta1Experiment(display_name=name, **self.place)
            found, made = self.make("creating the experiment", there, self.experiments.experiment_service_create_experiment, wanted), True  # fmt: skip
        return self.identity(found, "experiment_id"), made

    @contextmanager
    def in_experiment(self, name: str) -> Iterator[str]:
        """The experiment's id; one that was made for what then fails is taken away again."""
        identity, made = self.experiment(name)
        try:
            yield identity
        except RetainError as error:
            if made and not isinstance(error, Unknown):
                with suppress(EnvironmentFault):  # the first fault is the one to tell; an empty experiment harms nobody
                    self.ask("removing the empty experiment", self.experiments.experiment_service_delete_experiment, identity)  # fmt: skip
            raise

    def identity(self, found: Any, field: str) -> str:
        """The id of what the server says it has: a login page in disguise has none."""
        value = getattr(found, field, None)
        if not value:
            raise EnvironmentFault("what answers there is no KFP server", where=self.host, got=f"no {field}", fix="check --host; with Kubeflow it ends in /pipeline")  # fmt: skip
        return str(value)

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """kfp-server-api's and urllib3's errors as ours; neither header nor cookie is ever in a message."""
        import urllib3

        try:
            yield
        except self.kfp.ApiException as error:
            raise self._named(what, error.status or 0, _message(error.body)) from None
        except urllib3.exceptions.HTTPError as error:
            raise Away(f"the KFP server was not reached ({what})", where=self.host, got=_short(error), fix="check --host, the network and the server") from None  # fmt: skip
        except (
            ValueError,
            TypeError,
            AttributeError,
        ) as error:  # kfp-server-api's models on an answer of another shape
            raise EnvironmentFault(f"what answers there is no KFP server ({what})", where=self.host, got=f"{type(error).__name__}: {error}"[:200]) from None  # fmt: skip

    def _named(self, what: str, status: int, message: str) -> RetainError:
        said = {"where": f"{self.host} ({what})", "got": f"{status} {message}".strip()}
        if status in (400, 409, 412):
            return (ConfigError if status == 400 else UsageError)("the KFP server refuses this request", **said)
        if status == 401 or 300 <= status < 400:
            return EnvironmentFault("the KFP server asks for a login", **said, fix=LOGIN_FIX)
        if status == 403:
            return EnvironmentFault("the KFP server does not allow this", **said, fix=f"check --namespace ('{self.namespace}') and the rights of this user in it")  # fmt: skip
        if status == 404:
            return Gone("the KFP server has no such thing", **said, fix="check --host (with Kubeflow it ends in /pipeline) and what was named")  # fmt: skip
        kind = Away if status in TRANSIENT else EnvironmentFault
        return kind("the KFP server failed", **said, fix="see the log of ml-pipeline; try again later")


def _message(body: Any) -> str:
    """The server's own words: ``message`` of its JSON, or the first words of whatever it is."""
    text = body if isinstance(body, str) else ""
    try:
        value = json.loads(text)
    except ValueError:
        return " ".join(text.split())[:120]
    found = value.get("message") or value.get("error") if isinstance(value, dict) else ""
    return str(found or "")[:300]


def _short(error: Exception) -> str:
    """The last reason of a chain of urllib3's, without addresses of objects."""
    reason = getattr(error, "reason", None) or error
    return f"{type(reason).__name__}: {str(reason).rpartition(': ')[2]}"[:200]
