"""One OpenAI-compatible chat endpoint. The key stays in the request's header.

requests (which the pipeline client needs as well) and tenacity are all that one POST needs; the openai package
would add a client, its models and a second HTTP stack for it. Of a reply only `choices[0].message.content` and, where it
is there, `usage` are read, so any server that speaks the protocol will do.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from types import TracebackType
from typing import Any

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_random_exponential,
)

from retain.errors import ConfigError, EnvironmentFault
from retain.judge.config import JudgeConfig

AGAIN = {408, 409, 425, 429}
Message = dict[str, str]


@dataclass(frozen=True)
class Reply:
    """What the judge said, and the tokens it read and wrote (as the server counts them; 0 where it does not say)."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0


class _Again(Exception):
    """A fault that may be gone the next time; `after`: seconds the server asked to wait."""

    def __init__(self, what: str, after: float = 0.0) -> None:
        super().__init__(what)
        self.after = after


class Endpoint:
    """Asks one model at one address; safe to use from several threads."""

    def __init__(self, config: JudgeConfig) -> None:
        import requests
        from requests.adapters import HTTPAdapter

        self.config, self._stopped = config, Event()
        self._session = requests.Session()
        self._session.auth = _bearer(os.environ.get(config.api_key_env, ""))
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=config.workers))

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:  # fmt: skip
        self._session.close()

    def stop(self) -> None:
        """No further attempts: requests under way end with what they get."""
        self._stopped.set()

    def body(self, messages: Sequence[Message]) -> dict[str, Any]:
        """The request for one reply; with the address it is all that the reply depends on."""
        config = self.config
        return {"model": config.model, "messages": list(messages), "temperature": config.temperature, config.token_field: config.max_tokens}  # fmt: skip

    def ask(self, messages: Sequence[Message]) -> Reply:
        """One reply; EnvironmentFault (8) when the server does not give one, ConfigError (2) when it refuses the request."""
        growing = wait_random_exponential(multiplier=0.5, max=self.config.longest_wait_seconds)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.after if isinstance(error, _Again) else 0.0
            return min(max(asked, growing(state)), self.config.longest_wait_seconds)

        try:
            return Retrying(
                retry=retry_if_exception_type(_Again), stop=stop_after_attempt(self.config.retries + 1) | stop_when_event_set(self._stopped),
                wait=wait, sleep=sleep_using_event(self._stopped), reraise=True,
            )(self._once, self.body(messages))  # fmt: skip
        except _Again as error:
            raise EnvironmentFault(
                "the judge does not answer", where=self.config.endpoint, got=str(error), expected=f"a reply within {self.config.retries + 1} attempts",
                fix="start again later: replies that came are kept; or lower judge.workers",
            ) from None  # fmt: skip

    def _once(self, body: dict[str, Any]) -> Reply:
        import requests

        address = self.config.endpoint.rstrip("/") + "/chat/completions"
        try:
            response = self._session.post(
                address, json=body, timeout=self.config.timeout_seconds, allow_redirects=False
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _Again(f"{type(error).__name__}: {error}") from None
        if response.status_code in AGAIN or response.status_code >= 500:
            raise _Again(f"HTTP {response.status_code}", _seconds(response.headers.get("retry-after", "")))
        if response.status_code != 200:
            raise self._refused(response.status_code, response.text)
        return self._read(response.text)

    def _refused(self, status: int, text: str) -> Exception:
        where, got = self.config.endpoint, f"HTTP {status}: {' '.join(text.split())[:300]}"
        if status in (401, 403):
            return EnvironmentFault("the judge does not know this key", where=where, got=f"HTTP {status}", fix=f"put a valid key into the environment variable {self.config.api_key_env}")  # fmt: skip
        return ConfigError("the judge refuses the request", where=where, got=got, fix="check judge.endpoint (with /v1 where the server has it), judge.model and judge.token_field")  # fmt: skip

    def _read(self, text: str) -> Reply:
        try:
            value = json.loads(text)
            said = value["choices"][0]["message"]["content"]
            usage = value.get("usage") or {}
            return Reply(
                str(said or ""), int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            )
        except (ValueError, LookupError, TypeError, AttributeError):
            raise EnvironmentFault("the judge's reply has another shape", where=self.config.endpoint, got=text[:200], expected="an OpenAI chat completion", fix="check judge.endpoint") from None  # fmt: skip


def _bearer(key: str) -> Callable[[Any], Any]:
    """Authorisation with the key, or with nothing: never with what a .netrc has for that host."""

    def authorise(request: Any) -> Any:
        if key:
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    return authorise


def _seconds(header: str) -> float:
    """Retry-After in seconds; a date is left to the growing waits."""
    return float(header) if header.replace(".", "", 1).isdigit() else 0.0
