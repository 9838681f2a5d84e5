"""A webhook on loopback: keeps what it was sent, and answers as it is told."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DROP = 0  # instead of a status: the connection is closed without an answer


@dataclass
class Receiver:
    url: str = ""
    answers: list[int] = field(default_factory=list)  # the next ones; then 200
    messages: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0


@contextmanager
def receiving() -> Iterator[Receiver]:
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.asked += 1
            status = found.answers.pop(0) if found.answers else 200
            if status == DROP:
                self.close_connection = True
                return
            if status == 200:
                found.messages.append(json.loads(body))
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", f"{found.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *arguments: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/hook-secret"
    yield found
    server.shutdown()
    server.server_close()
    thread.join()
