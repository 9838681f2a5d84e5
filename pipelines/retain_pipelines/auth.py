"""Who we are to a KFP server. Secrets come from the environment or from files, never from a flag, and never go into a log.

| variable                                         | what it is                                                          |
|--------------------------------------------------|---------------------------------------------------------------------|
| ``RETAIN_KFP_COOKIE``                            | session cookie of a login in a browser, ``name=value``              |
| ``RETAIN_KFP_USERNAME``, ``RETAIN_KFP_PASSWORD`` | a static user of Dex; a session is fetched with them (oauth2-proxy) |
| ``RETAIN_KFP_TOKEN``                             | bearer token                                                        |
| ``RETAIN_KFP_TOKEN_FILE``                        | file that holds one, read anew for each request (it may rotate)     |
| ``RETAIN_KFP_HEADER``                            | further headers, ``Name: value``, one a line                        |
| ``RETAIN_KFP_CA``                                | certificates that the server's own is checked against               |

In a pod, the projected service account token is found without any of them (KF_PIPELINES_SA_TOKEN_PATH, or its usual place).
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from retain.errors import ConfigError, EnvironmentFault

IN_CLUSTER_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Credentials:
    """What is sent along with each request; not shown by repr."""

    token: str = field(default="", repr=False)
    token_file: str = ""
    cookie: str = field(default="", repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    ca_file: str = ""

    def bearer(self) -> str:
        """The token of this moment; an empty text where there is none."""
        if not self.token_file:
            return self.token
        try:
            return Path(self.token_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise EnvironmentFault("the token file cannot be read", where=self.token_file, got=error.strerror) from None


def from_environment(host: str) -> Credentials:
    """What this machine has for ``host``; nothing at all is fine for a server without a login."""
    check_host(host)
    user, password = os.environ.get("RETAIN_KFP_USERNAME", ""), os.environ.get("RETAIN_KFP_PASSWORD", "")
    if bool(user) != bool(password):
        raise ConfigError("a login needs both RETAIN_KFP_USERNAME and RETAIN_KFP_PASSWORD", got="one of them")
    cookie = os.environ.get("RETAIN_KFP_COOKIE", "")
    ca = os.environ.get("RETAIN_KFP_CA", "")
    token = os.environ.get("RETAIN_KFP_TOKEN", "")
    return Credentials(
        token=token, token_file="" if token or cookie or user else _token_file(),
        cookie=cookie or (login(host, user, password, ca) if user else ""), headers=_headers(), ca_file=ca,
    )  # fmt: skip


def check_host(host: str) -> None:
    parts = urlsplit(host)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("--host takes the address of a KFP server", got=host.rpartition("@")[2], expected="https://kubeflow.example.com/pipeline")  # fmt: skip
    if parts.username or parts.password or parts.query:
        raise ConfigError("a secret in --host would end in logs and in the shell's history", fix="leave it out and set RETAIN_KFP_TOKEN (or another of the variables of retain submit --help)")  # fmt: skip


def _token_file() -> str:
    for name in ("RETAIN_KFP_TOKEN_FILE", "KF_PIPELINES_SA_TOKEN_PATH"):
        if path := os.environ.get(name):
            return path
    return str(IN_CLUSTER_TOKEN) if IN_CLUSTER_TOKEN.is_file() else ""


def _headers() -> dict[str, str]:
    headers = {}
    for line in filter(str.strip, os.environ.get("RETAIN_KFP_HEADER", "").splitlines()):
        name, mark, value = line.partition(":")
        if not mark or not re.fullmatch(r"[\w-]+", name.strip()):
            raise ConfigError("RETAIN_KFP_HEADER takes 'Name: value', one a line", got="a line of another form")
        headers[name.strip()] = value.strip()
    return headers


def login(host: str, user: str, password: str, ca: str = "") -> str:
    """A session cookie from Dex behind oauth2-proxy (or the older AuthService), by the forms a browser would fill.

    The password goes to a login page of the same host only.
    """
    import requests

    root = f"{urlsplit(host).scheme}://{urlsplit(host).netloc}"
    with requests.Session() as session:
        session.verify = ca or True
        try:
            page = _login_page(session, root)
            if urlsplit(page.url).netloc != urlsplit(root).netloc:
                raise EnvironmentFault("the login page is on another host; a password is not sent there", got=urlsplit(page.url).netloc, fix="log in with a browser and set RETAIN_KFP_COOKIE, or use RETAIN_KFP_TOKEN")  # fmt: skip
            session.post(page.url, data={"login": user, "password": password}, timeout=TIMEOUT_SECONDS)
        except requests.RequestException as error:
            raise EnvironmentFault("the login page did not answer", where=root, got=type(error).__name__) from None
        cookie = "; ".join(f"{c.name}={c.value}" for c in session.cookies if _is_session(c.name))
    if not cookie:
        raise EnvironmentFault("the server refused the login", where=root, got="no session after the form was sent", fix="check RETAIN_KFP_USERNAME and RETAIN_KFP_PASSWORD; only static users of Dex can log in this way")  # fmt: skip
    return cookie


def _login_page(session: Any, root: str) -> Any:
    """Dex's form: through oauth2-proxy's own page, the choice of a connector, and the redirects between them."""
    page = session.get(root, timeout=TIMEOUT_SECONDS)
    if page.status_code in (401, 403):
        page = session.get(f"{root}/oauth2/start", params={"rd": "/"}, timeout=TIMEOUT_SECONDS)
    if urlsplit(page.url).path.rstrip("/").endswith("/auth"):
        page = session.get(page.url.replace("/auth?", "/auth/local?", 1), timeout=TIMEOUT_SECONDS)
    return page


def _is_session(name: str) -> bool:
    """A CSRF cookie is set before the login and proves nothing."""
    return name.startswith(("oauth2_proxy", "_oauth2_proxy", "authservice_session")) and "csrf" not in name
