"""A stand-in for Kubeflow's Model Registry server, which is a Go program that cannot be had here.

Every request is read with the models that the project publishes for its API (``mr_openapi``), every answer is written with
them, and what they do not say is done as the server's source does it: unknown fields and empty values are refused, names
and external ids are unique (409), an update with customProperties replaces all of them, one without keeps them.
"""

import contextlib
import http.server
import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlparse

TOKEN = "hunter2-of-the-pod"
PAGE = 3  # entities an answer holds at most, so that the client has to turn pages


class Refused(Exception):
    """status, message."""


class State:
    def __init__(self, version: str) -> None:
        self.root = f"/api/model_registry/{version}/"
        self.lock, self.ids, self.odd = threading.Lock(), itertools.count(1), []
        self.created: dict[
            str, str
        ] = {}  # id → milliseconds since 1970, as text; the client's models leave it out of what they write
        self.taken: set[tuple[str, str]] = set()  # (kind, name or external id)
        self.models: dict[str, Any] = {}
        self.versions: dict[str, Any] = {}
        self.artifacts: dict[str, list[Any]] = {}


class Handler(http.server.BaseHTTPRequestHandler):
    state: State

    def _do(self) -> None:
        place = urlparse(self.path)
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else {}
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "who are you?")
            if not place.path.startswith(self.state.root):
                raise Refused(404, "another version of this API")
            with self.state.lock:
                status, answer = self._route(place.path.removeprefix(self.state.root), parse_qs(place.query), body)
        except Refused as no:
            status, answer = no.args[0], {"code": str(no.args[0]), "message": no.args[1]}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PATCH = _do

    def _route(self, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        import mr_openapi as api

        match [self.command, *path.split("/")]:
            case ["GET", "registered_models"]:
                wanted = query.get("filterQuery", [""])[0]
                asked = re.fullmatch(r'name = "([^"]*)"', wanted)
                if wanted and not asked:
                    raise Refused(400, "this filter is not understood here")
                return 200, self._page(
                    [m for m in self.state.models.values() if not asked or m.name == asked[1]], query
                )
            case ["POST", "registered_models"]:
                return 201, self._create(self.state.models, api.RegisteredModelCreate, api.RegisteredModel, body, body.get("name"))  # fmt: skip
            case ["PATCH", "registered_models", number]:
                return 200, self._update(self.state.models, number, api.RegisteredModelUpdate, body)
            case ["GET", "registered_models", number, "versions"]:
                return 200, self._page(
                    [v for v in self.state.versions.values() if v.registered_model_id == number], query
                )
            case ["POST", "model_versions"]:
                name = f"{body.get('registeredModelId')}:{body.get('name')}"
                if body.get("registeredModelId") not in self.state.models:
                    raise Refused(404, "no such model")
                return 201, self._create(self.state.versions, api.ModelVersionCreate, api.ModelVersion, body, name)
            case ["PATCH", "model_versions", number]:
                return 200, self._update(self.state.versions, number, api.ModelVersionUpdate, body)
            case ["POST", "model_versions", number, "artifacts"]:
                return 201, self._artifact(number, body)
            case _:
                self.state.odd.append(f"{self.command} {self.path}")
                raise Refused(404, "no such path")

    def _create(self, kept: dict[str, Any], asked: Any, made: Any, body: dict[str, Any], name: Any) -> dict[str, Any]:
        values = _read(asked, body).to_dict()
        unique = {(made.__name__, name), *({("externalId", values["externalId"])} if values.get("externalId") else ())}
        if unique & self.state.taken:
            raise Refused(409, f"{name} already exists")
        self.state.taken |= unique
        number = str(next(self.state.ids))
        self.state.created[number] = str(int(time.time() * 1000))
        kept[number] = made.from_dict({**values, "id": number})
        return self._told(kept[number])

    def _update(self, kept: dict[str, Any], number: str, asked: Any, body: dict[str, Any]) -> dict[str, Any]:
        if number not in kept:
            raise Refused(404, f"no entity {number}")
        values = _read(asked, body).to_dict()
        if "customProperties" not in body:
            values.pop("customProperties", None)
        kept[number] = type(kept[number]).from_dict({**kept[number].to_dict(), **values})
        return self._told(kept[number])

    def _told(self, entity: Any) -> dict[str, Any]:
        return {**entity.to_dict(), "createTimeSinceEpoch": self.state.created[entity.id]}

    def _page(self, entities: list[Any], query: dict[str, list[str]]) -> dict[str, Any]:
        first, size = int(query.get("nextPageToken", ["0"])[0]), min(PAGE, int(query.get("pageSize", [str(PAGE)])[0]))
        items = [self._told(e) for e in entities[first : first + size]]
        more = str(first + size) if first + size < len(entities) else ""
        return {"items": items, "nextPageToken": more, "pageSize": size, "size": len(items)}

    def _artifact(self, number: str, body: dict[str, Any]) -> dict[str, Any]:
        import mr_openapi as api

        if number not in self.state.versions:
            raise Refused(404, f"no version {number}")
        made = _read(api.ModelArtifact, body)
        kept = self.state.artifacts.setdefault(number, [])
        if made.name in {a.name for a in kept}:
            raise Refused(409, f"{made.name} already exists")
        kept.append(made)
        return {**made.to_dict(), "id": str(next(self.state.ids))}

    def log_message(self, *args: object) -> None:
        pass


def _read(kind: Any, body: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    unknown = set(body) - {field.alias or name for name, field in kind.model_fields.items()}
    if unknown:
        raise Refused(400, f'json: unknown field "{min(unknown)}"')
    for key, value in (body.get("customProperties") or {}).items():
        if set(value) != {"metadataType", "string_value"} or not value["string_value"]:
            raise Refused(422, f"required field 'string_value' of {key} is zero value.")
    try:
        return kind.from_dict(body)
    except (ValidationError, ValueError) as error:
        raise Refused(400, str(error)) from None


@contextlib.contextmanager
def serve(version: str = "v1alpha3") -> Iterator[tuple[str, State]]:
    """(address, what the server holds)."""
    state = State(version)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Fresh", (Handler,), {"state": state}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", state
    server.shutdown()
    server.server_close()
