"""One OpenAI-compatible chat endpoint. The key stays in the request's header.

requests (which the pipeline client needs as well) and tenacity are all that one POST needs; the openai package
would add a client, its models and a second HTTP stack for it. Of a reply only `choices[0].message.content` and, where it
is there, `usage` are read, so any server that speaks the protocol will do.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from types import TracebackType
from typing import Any

from pydantic import Field
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_random_exponential,
)

from retain.config import StepConfig
from retain.errors import ConfigError, EnvironmentFault

AGAIN = {408, 409, 425, 429}
Message = dict[str, str]


class EndpointConfig(StepConfig):
    """Where a model answers, and how it is asked."""

    endpoint: str = Field(
        default="", pattern=r"^(https?://[^@?#\s]+)?$", description="base address of an OpenAI-compatible API, e.g. https://models.example.com/v1"
    )  # fmt: skip
    model: str = Field(default="", description="name of the model at that address")
    api_key_env: str = Field(
        default="RETAIN_API_KEY", pattern=r"^[A-Z_][A-Z0-9_]*$", description="environment variable that holds the key; the key itself is never a setting"
    )  # fmt: skip
    temperature: float = Field(default=0.0, ge=0, le=2, description="of the replies")
    max_tokens: int = Field(default=512, ge=1, description="tokens of one reply, at most")
    token_field: str = Field(
        default="max_tokens", pattern=r"^max_(completion_)?tokens$", description="name of that bound in the request; some models take max_completion_tokens only"
    )  # fmt: skip
    workers: int = Field(default=8, ge=1, le=256, description="requests under way at once")
    timeout_seconds: float = Field(default=120, gt=0, description="seconds one request may take")
    retries: int = Field(default=6, ge=0, le=20, description="further attempts after 429, 5xx or a lost connection, with growing waits")  # fmt: skip
    longest_wait_seconds: float = Field(default=60, gt=0, description="seconds, the longest wait between two attempts")


@dataclass(frozen=True)
class Reply:
    """What the model said, and the tokens it read and wrote (as the server counts them; 0 where it does not say)."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0


class _Again(Exception):
    """A fault that may be gone the next time; `after`: seconds the server asked to wait."""

    def __init__(self, what: str, after: float = 0.0) -> None:
        super().__init__(what)
        self.after = after


class Endpoint:
    """Asks one model at one address; safe to use from several threads.

    who: what errors call it; stage: where its settings stand; more: further fields of every request.
    """

    def __init__(self, config: EndpointConfig, *, who: str, stage: str, more: Mapping[str, Any] | None = None) -> None:
        import requests
        from requests.adapters import HTTPAdapter

        self.config, self.who, self.stage, self.more = config, who, stage, dict(more or {})
        self._stopped = Event()
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
        return {"model": config.model, "messages": list(messages), "temperature": config.temperature, config.token_field: config.max_tokens, **self.more}  # fmt: skip

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
                f"{self.who} does not answer", where=self.config.endpoint, got=str(error), expected=f"a reply within {self.config.retries + 1} attempts",
                fix=f"start again later: replies that came are kept; or lower {self.stage}.workers",
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
            return EnvironmentFault(f"{self.who} does not know this key", where=where, got=f"HTTP {status}", fix=f"put a valid key into the environment variable {self.config.api_key_env}")  # fmt: skip
        return ConfigError(f"{self.who} refuses the request", where=where, got=got, fix=f"check {self.stage}.endpoint (with /v1 where the server has it), {self.stage}.model and {self.stage}.token_field")  # fmt: skip

    def _read(self, text: str) -> Reply:
        try:
            value = json.loads(text)
            said = value["choices"][0]["message"]["content"]
            usage = value.get("usage") or {}
            return Reply(
                str(said or ""), int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            )
        except (ValueError, LookupError, TypeError, AttributeError):
            raise EnvironmentFault(f"the reply of {self.who} has another shape", where=self.config.endpoint, got=text[:200], expected="an OpenAI chat completion", fix=f"check {self.stage}.endpoint") from None  # fmt: skip


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
