"""One JSON message to the address in RETAIN_WEBHOOK_URL; the address is a secret and is in no message, log or parameter."""

import http.client
import ipaddress
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from retain.errors import ConfigError, EnvironmentFault

VARIABLE = "RETAIN_WEBHOOK_URL"
ATTEMPTS, SECONDS, LONGEST_WAIT_SECONDS = 4, 10.0, 8.0
AGAIN = {408, 425, 429, 500, 502, 503, 504}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        """A redirect would carry the message to an address nobody wrote down."""


def check(url: str) -> str:
    """The host of ``url``; ConfigError (2) unless it is https, or http to this very machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if (
        not host
        or parts.username is not None
        or not (parts.scheme == "https" or (parts.scheme == "http" and _here(host)))
    ):
        raise ConfigError(f"{VARIABLE} cannot be used", got=f"{parts.scheme or 'no scheme'}, {'a host' if host else 'no host'}", expected="https://… without a user in it (http only to loopback)")  # fmt: skip
    return host


def _here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def post(url: str, message: Mapping[str, Any]) -> None:
    """Send ``message``, asked again up to four times while the other side is away. EnvironmentFault (8) where it stays away."""
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

    host = check(url)
    again = Retrying(
        retry=retry_if_exception_type(_Away), stop=stop_after_attempt(ATTEMPTS), reraise=True,
        wait=wait_exponential(multiplier=0.5, max=LONGEST_WAIT_SECONDS),
    )  # fmt: skip
    again(_once, url, host, json.dumps(message, ensure_ascii=False).encode())


class _Away(EnvironmentFault):
    """May be tried again."""


def _once(url: str, host: str, body: bytes) -> None:
    request = urllib.request.Request(
        url, body, {"Content-Type": "application/json", "User-Agent": "retain"}, method="POST"
    )
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=SECONDS):
            return
    except urllib.error.HTTPError as error:
        error.close()
        kind = _Away if error.code in AGAIN else EnvironmentFault
        raise kind("the webhook refuses the message", where=host, got=error.code, fix="check the address in the secret") from None  # fmt: skip
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise _Away("the webhook was not reached", where=host, got=type(reason).__name__, fix="check the network policy") from None  # fmt: skip
