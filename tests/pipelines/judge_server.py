"""A judge on loopback that speaks the OpenAI chat protocol; what it says is a function of what it is shown."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-secret-of-the-test"


def answers_in(body: dict[str, Any]) -> tuple[str, str]:
    """The two answers of a request, read as the judge would."""
    parts = body["messages"][1]["content"].split("<<")
    return parts[3].split(">>\n", 1)[1].rstrip("\n"), parts[5].split(">>\n", 1)[1].rstrip("\n")


def prefers_good(body: dict[str, Any]) -> str:
    one, two = ("good" in answer for answer in answers_in(body))
    return "[[tie]]" if one == two else "[[1]]" if one else "[[2]]"


@dataclass
class Judge:
    """faults: statuses answered before anything else, one each. seen: bodies of the requests that were answered."""

    address: str = ""
    say: Callable[[dict[str, Any]], str] = prefers_good
    faults: list[int] = field(default_factory=list)
    seen: list[dict[str, Any]] = field(default_factory=list)
    refused_after: int = 1 << 30

    def answer(self, body: dict[str, Any], key: str) -> tuple[int, dict[str, Any]]:
        if key != f"Bearer {KEY}":
            return 401, {"error": {"message": f"wrong key {key}"}}
        if self.faults:
            return self.faults.pop(0), {"error": {"message": "later"}}
        if set(body) != {"model", "messages", "temperature", "max_tokens"}:
            return 400, {"error": {"message": f"unknown field in {sorted(body)}"}}
        if len(self.seen) >= self.refused_after:
            return 400, {"error": {"message": "enough"}}
        self.seen.append(body)
        said = {"role": "assistant", "content": f"One of them is better.\n{self.say(body)}"}
        return 200, {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "message": said, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }  # fmt: skip


@contextmanager
def serving() -> Iterator[Judge]:
    judge = Judge()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            here = self.path == "/v1/chat/completions"
            status, value = judge.answer(body, self.headers.get("Authorization", "")) if here else (404, {})
            data = json.dumps(value).encode()
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "0.05")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    judge.address = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield judge
    finally:
        http.shutdown()
        http.server_close()
