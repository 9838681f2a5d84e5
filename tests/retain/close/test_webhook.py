"""The webhook: https or loopback, asked again while it is away, never redirected, its address never told."""

import pytest

from retain.close import webhook
from retain.errors import ConfigError, EnvironmentFault

from .receiver import DROP, receiving


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retain.close.webhook.LONGEST_WAIT_SECONDS", 0.01)


@pytest.mark.parametrize("url", ["http://example.com/x", "ftp://localhost/x", "https://", "nonsense", "https://me:pw@h/x", "http://10.0.0.1/x"])  # fmt: skip
def test_only_https_or_loopback(url: str) -> None:
    with pytest.raises(ConfigError, match="RETAIN_WEBHOOK_URL cannot be used") as caught:
        webhook.post(url, {})
    assert "pw" not in str(caught.value)


def test_https_anywhere_and_http_to_this_machine() -> None:
    assert webhook.check("https://hooks.example.com/x/y") == "hooks.example.com"
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert webhook.check(f"http://{host}:8080/x")


def test_it_is_asked_again_while_it_is_away() -> None:
    with receiving() as there:
        there.answers = [503, DROP, 429]
        webhook.post(there.url, {"a": 1})
        assert (there.asked, there.messages) == (4, [{"a": 1}])


@pytest.mark.parametrize(("answers", "asked"), [([500] * 9, 4), ([404], 1), ([302], 1)])
def test_it_gives_up(answers: list[int], asked: int) -> None:
    with receiving() as there:
        there.answers = list(answers)
        with pytest.raises(EnvironmentFault) as caught:
            webhook.post(there.url, {})
        assert (there.asked, there.messages) == (asked, [])
        assert "hook-secret" not in str(caught.value)


def test_nobody_there() -> None:
    with pytest.raises(EnvironmentFault, match="was not reached") as caught:
        webhook.post("http://127.0.0.1:9/hook-secret", {})
    assert "hook-secret" not in str(caught.value)


def test_one_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr("retain.close.webhook.SECONDS", 0.2)
    monkeypatch.setattr("retain.close.webhook.ATTEMPTS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(EnvironmentFault, match="not reached"):
        webhook.post(f"http://127.0.0.1:{silent.getsockname()[1]}/", {})
