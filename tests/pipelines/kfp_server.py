"""A Kubeflow Pipelines server on loopback, as far as retain talks to it: the one stand-in of the test suite.

Every request body is read into kfp-server-api's models and refused if it holds a key they do not know or a required thing
is missing; every answer is written from those models. Tasks are named by their keys in the pipeline, as the real
server does (its list comes from the workflow's nodes), with the drivers and executors between them.
"""

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import kfp_server_api as kfp
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

API = kfp.ApiClient(kfp.Configuration())
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where PyYAML was built with libyaml
Model = Any


def parsed(kind: str, value: dict[str, Any]) -> Model:
    """``value`` as one of kfp-server-api's models; ValueError for a key it does not know."""
    model = API.deserialize(SimpleNamespace(data=json.dumps(value)), kind)
    known(model, value)
    return model


def known(model: Model, value: Any) -> None:
    if isinstance(value, dict) and hasattr(model, "attribute_map"):
        names = {key: attribute for attribute, key in model.attribute_map.items()}
        if unknown := set(value) - set(names):
            raise ValueError(f"{type(model).__name__} has no {sorted(unknown)}")
        for key, inner in value.items():
            known(getattr(model, names[key]), inner)


def check_spec(body: Any) -> None:
    """Both halves of a pipeline, against KFP's protos."""
    spec = body.get("pipeline_spec", body)
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    platform = body.get("platform_spec", {})
    for single in platform.get("platforms", {}).values():
        for config in single["deploymentSpec"]["executors"].values():
            json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


@dataclass
class Fault:
    """What happens instead of (or, with after=True, behind) an answer. action: a status, drop, slow, html or redirect."""

    method: str
    path: str
    action: int | str
    times: int = 1
    after: bool = False


@dataclass
class World:
    """What the server holds, and what it was asked."""

    token: str = ""
    cookie: str = ""
    users: dict[str, str] = field(default_factory=dict)
    multi_user: bool = True
    by_display_name: bool = False
    faults: list[Fault] = field(default_factory=list)
    script: list[dict[str, str]] = field(default_factory=list)  # display name → state, one entry a look; then the end
    end: str = "SUCCEEDED"
    vanish_after: int = -1
    on_run: Callable[[Model], None] = lambda run: None
    experiments: dict[str, Model] = field(default_factory=dict)
    runs: dict[str, Model] = field(default_factory=dict)
    schedules: dict[str, Model] = field(default_factory=dict)
    pipelines: dict[str, Model] = field(default_factory=dict)
    versions: dict[str, list[Model]] = field(default_factory=dict)
    looks: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    # -- experiments
    def list_experiments(self, query: dict[str, str]) -> Model:
        self._namespaced(query)
        return kfp.V2beta1ListExperimentsResponse(experiments=_filtered(self.experiments, query))

    def create_experiment(self, body: dict[str, Any]) -> Model:
        made = parsed("V2beta1Experiment", body)
        _need(made, "display_name")
        if self.multi_user:
            _need(made, "namespace")
        made.experiment_id = uuid.uuid4().hex
        self.experiments[made.experiment_id] = made
        return made

    def delete_experiment(self, identity: str) -> Model:
        del self.experiments[identity]
        return {}

    # -- runs
    def create_run(self, body: dict[str, Any], query: dict[str, str]) -> Model:
        made = parsed("V2beta1Run", body)
        _need(made, "display_name")
        self._in_experiment(made.experiment_id)
        self._complete(made)
        made.run_id, made.state = str(uuid.uuid4()), "PENDING"
        self.runs[made.run_id] = made
        self.on_run(made)
        return made

    def list_runs(self, query: dict[str, str]) -> Model:
        return kfp.V2beta1ListRunsResponse(runs=_filtered(self.runs, query))

    def get_run(self, identity: str, query: dict[str, str]) -> Model:
        look = self.looks[identity] = self.looks.get(identity, 0) + 1
        if identity not in self.runs or 0 <= self.vanish_after < look:
            raise Refused(404, f"Run {identity} not found")
        run = self.runs[identity]
        states = self.script[min(look, len(self.script)) - 1] if self.script else {}
        run.state = "RUNNING" if look < len(self.script) else self.end
        run.run_details = kfp.V2beta1RunDetails(task_details=self._details(run, states))
        return run

    def _details(self, run: Model, states: dict[str, str]) -> list[Model]:
        keys = keys_of(run.pipeline_spec["pipeline_spec"])
        found = []
        for title, state in states.items():
            name = title if self.by_display_name else keys[title]
            found += [(f"{name}-driver", "SUCCEEDED"), (name, state), ("executor", state)]
        return [kfp.V2beta1PipelineTaskDetail(run_id=run.run_id, display_name=n, state=s, task_id="") for n, s in found]

    # -- schedules
    def create_schedule(self, body: dict[str, Any]) -> Model:
        made = parsed("V2beta1RecurringRun", body)
        _need(made, "display_name", "trigger", "mode")
        self._in_experiment(made.experiment_id)
        self._complete(made)
        if not 1 <= int(made.max_concurrency) <= 10:
            raise Refused(400, "Max concurrency of a recurring run must be at least 1 and at most 10")
        if len(made.trigger.cron_schedule.cron.split()) != 6 and not made.trigger.cron_schedule.cron.startswith("@"):
            raise Refused(400, "Schedule cron is not a supported format")
        made.recurring_run_id, made.status = str(uuid.uuid4()), "ENABLED"
        self.schedules[made.recurring_run_id] = made
        return made

    def list_schedules(self, query: dict[str, str]) -> Model:
        self._namespaced(query)
        return kfp.V2beta1ListRecurringRunsResponse(recurring_runs=_filtered(self.schedules, query))

    def switch_schedule(self, identity: str, on: bool) -> Model:
        self.schedules[identity].status = "ENABLED" if on else "DISABLED"
        return {}

    def delete_schedule(self, identity: str) -> Model:
        if self.schedules.pop(identity, None) is None:
            raise Refused(404, "not found")
        return {}

    # -- pipelines
    def list_pipelines(self, query: dict[str, str]) -> Model:
        return kfp.V2beta1ListPipelinesResponse(pipelines=_filtered(self.pipelines, query))

    def list_versions(self, identity: str, query: dict[str, str]) -> Model:
        first = int(query.get("page_token") or 0)  # one a page, so that paging is really used
        page = self.versions[identity][first : first + 1]
        more = str(first + 1) if first + 1 < len(self.versions[identity]) else None
        return kfp.V2beta1ListPipelineVersionsResponse(pipeline_versions=page, next_page_token=more)

    def upload(self, file: str, query: dict[str, str]) -> Model:
        self._check_file(file)
        made = kfp.V2beta1Pipeline(pipeline_id=uuid.uuid4().hex, display_name=query["name"], description=query.get("description"))  # fmt: skip
        if any(old.display_name == made.display_name for old in self.pipelines.values()):
            raise Refused(409, "a pipeline of this name exists")
        self.pipelines[made.pipeline_id] = made
        self.versions[made.pipeline_id] = []
        self._version(made.pipeline_id, query["name"], query)
        return made

    def upload_version(self, file: str, query: dict[str, str]) -> Model:
        self._check_file(file)
        if any(old.display_name == query["name"] for old in self.versions[query["pipelineid"]]):
            raise Refused(409, "a version of this name exists")
        return self._version(query["pipelineid"], query["name"], query)

    def _version(self, pipeline: str, name: str, query: dict[str, str]) -> Model:
        made = kfp.V2beta1PipelineVersion(pipeline_id=pipeline, pipeline_version_id=uuid.uuid4().hex, display_name=name, description=query.get("description"))  # fmt: skip
        self.versions[pipeline].append(made)
        return made

    def _check_file(self, file: str) -> None:
        documents = list(yaml.load_all(file, Loader=LOADER))
        check_spec({"pipeline_spec": documents[0], "platform_spec": documents[1] if len(documents) > 1 else {}})

    # -- rules
    def _namespaced(self, query: dict[str, str]) -> None:
        if self.multi_user and not query.get("namespace"):
            raise Refused(400, "Invalid input error: namespace is empty in multi-user mode")

    def _in_experiment(self, identity: str | None) -> None:
        if identity not in self.experiments:
            raise Refused(400, f"no experiment {identity}")

    def _complete(self, made: Model) -> None:
        """A spec that parses, and every parameter it has: what is not sent shows as an empty field later."""
        check_spec(made.pipeline_spec)
        wanted = set(made.pipeline_spec["pipeline_spec"]["root"]["inputDefinitions"]["parameters"])
        got = set(made.runtime_config.parameters)
        if got != wanted:
            raise Refused(400, f"parameters differ: {sorted(got ^ wanted)}")


def keys_of(spec: dict[str, Any]) -> dict[str, str]:
    """Display name → key, of the tasks that are pods."""
    dags = [spec["root"], *spec["components"].values()]
    tasks = [item for dag in dags for item in dag.get("dag", {}).get("tasks", {}).items()]
    return {task["taskInfo"]["name"]: key for key, task in tasks if not key.startswith("condition-")}


def _need(model: Model, *names: str) -> None:
    for name in names:
        if not getattr(model, name):
            raise Refused(400, f"{name} is empty")


def _filtered(things: dict[str, Model], query: dict[str, str]) -> list[Model]:
    found = list(things.values())
    if "filter" in query:
        wanted = parsed("V2beta1Filter", json.loads(query["filter"]))
        for predicate in wanted.predicates:
            assert predicate.operation == "EQUALS"
            found = [thing for thing in found if getattr(thing, predicate.key) == predicate.string_value]
    return found[::-1] if query.get("sort_by") == "created_at desc" else found


ROUTES: list[tuple[str, str, Callable[..., Model]]] = [
    ("GET", r"experiments", lambda w, q, b: w.list_experiments(q)),
    ("POST", r"experiments", lambda w, q, b: w.create_experiment(b)),
    ("DELETE", r"experiments/([\w-]+)", lambda w, q, b, i: w.delete_experiment(i)),
    ("POST", r"runs", lambda w, q, b: w.create_run(b, q)),
    ("GET", r"runs", lambda w, q, b: w.list_runs(q)),
    ("GET", r"runs/([\w-]+)", lambda w, q, b, i: w.get_run(i, q)),
    ("POST", r"recurringruns", lambda w, q, b: w.create_schedule(b)),
    ("GET", r"recurringruns", lambda w, q, b: w.list_schedules(q)),
    ("POST", r"recurringruns/([\w-]+):enable", lambda w, q, b, i: w.switch_schedule(i, True)),
    ("POST", r"recurringruns/([\w-]+):disable", lambda w, q, b, i: w.switch_schedule(i, False)),
    ("DELETE", r"recurringruns/([\w-]+)", lambda w, q, b, i: w.delete_schedule(i)),
    ("GET", r"pipelines", lambda w, q, b: w.list_pipelines(q)),
    ("GET", r"pipelines/([\w-]+)/versions", lambda w, q, b, i: w.list_versions(i, q)),
    ("POST", r"pipelines/upload", lambda w, q, b: w.upload(b, q)),
    ("POST", r"pipelines/upload_version", lambda w, q, b: w.upload_version(b, q)),
]


class Handler(BaseHTTPRequestHandler):
    world: World

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        url = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, query = unquote(url.path), {k: v[0] for k, v in parse_qs(url.query).items()}
        with self.world.lock:
            self.world.asked.append((method, path))
            self.world.headers.append(dict(self.headers))
            fault = self._fault(method, path)
            if fault and not fault.after:
                self._misbehave(fault)
                return
            if self.world.users and self._login(method, path, raw):
                return
            status, value = self._allowed() or self._served(method, path, query, raw)
        if fault:
            self._misbehave(fault)
        else:
            self._send(status, json.dumps(value))

    def _served(self, method: str, path: str, query: dict[str, str], raw: bytes) -> tuple[int, Any]:
        for wanted, pattern, serve in ROUTES:
            found = re.fullmatch(f"(?:/pipeline)?/apis/v2beta1/{pattern}", path)
            if found and wanted == method:
                body = (_file(raw) if "upload" in path else json.loads(raw)) if raw else {}
                try:
                    made = serve(self.world, query, body, *found.groups())
                except Refused as refused:
                    return refused.status, {"error": refused.message, "message": refused.message, "code": 3}
                except (ValueError, KeyError, TypeError, AttributeError, json_format.ParseError) as error:
                    return 400, {"message": f"invalid request: {type(error).__name__}: {error}"}
                return 200, API.sanitize_for_serialization(made)
        return 404, {"message": f"no route {method} {path}"}

    def _allowed(self) -> tuple[int, Any] | None:
        world = self.world
        if world.token and self.headers.get("authorization") != f"Bearer {world.token}":
            return 401, {"message": "Request header error: there is no valid user identity"}
        if world.cookie and world.cookie not in (self.headers.get("Cookie") or ""):
            return 401, {"message": "no session"}
        return None

    def _login(self, method: str, path: str, raw: bytes) -> bool:
        """oauth2-proxy in front of Dex: a sign-in page, a redirect to the form, a session cookie for the right password."""
        if path in ("", "/"):
            self._send(403, "<html>Sign in</html>", "text/html")
        elif path == "/oauth2/start":
            self._redirect("/dex/auth?state=x")
        elif path == "/dex/auth/local":
            self._redirect("/dex/auth/local/login?state=x")
        elif path in ("/dex/auth", "/dex/auth/local/login") and method == "GET":
            self._send(200, "<html>Log in</html>", "text/html", cookie="_oauth2_proxy_csrf=c")
        elif path == "/dex/auth/local/login":
            form = {k: v[0] for k, v in parse_qs(raw.decode()).items()}
            if self.world.users.get(form["login"]) != form["password"]:
                self._send(200, "<html>Invalid Email Address and password.</html>", "text/html")
            else:
                self._redirect("/done", cookie=self.world.cookie)
        elif path == "/done":
            self._send(200, "<html>Kubeflow</html>", "text/html")
        else:
            return False
        return True

    def _fault(self, method: str, path: str) -> Fault | None:
        for fault in self.world.faults:
            if fault.times and fault.method == method and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None

    def _misbehave(self, fault: Fault) -> None:
        if fault.action == "drop":
            self.connection.close()
        elif fault.action == "slow":
            time.sleep(3)
        elif fault.action == "html":
            self._send(200, "<html><title>Log in</title></html>", "text/html")
        elif fault.action == "redirect":
            self._redirect("/dex/auth?state=x")
        else:
            self._send(int(fault.action), json.dumps({"message": "as the test wanted"}))

    def _redirect(self, where: str, cookie: str = "") -> None:
        self.send_response(302)
        self.send_header("Location", where)
        if cookie:
            self.send_header("Set-Cookie", f"{cookie}; Path=/; HttpOnly")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, status: int, text: str, kind: str = "application/json", cookie: str = "") -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if cookie:
            self.send_header("Set-Cookie", f"{cookie}; Path=/")
        self.end_headers()
        self.wfile.write(data)


def _file(raw: bytes) -> str:
    """The one file of a multipart body."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    return rest.rpartition(b"\r\n--")[0].decode() if b'name="uploadfile"' in head else ""


@contextmanager
def serving(world: World) -> Iterator[str]:
    """The server's address while it runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"world": world}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/pipeline"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
