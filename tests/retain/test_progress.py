import os
import pty

import pytest

from retain.progress import Progress, terminal, track


def test_a_log_gets_a_line_with_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RETAIN_TTY", raising=False)
    with Progress("train", total=10, unit="steps") as progress:
        progress.advance(5, note="loss 1.250", rate="400 tokens/s")
        assert progress.line().startswith("train 5/10 steps 50% 400 tokens/s 00:00 left loss 1.250")
        progress.advance(5)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_step_without_a_terminal_draws_on_the_named_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setenv("RETAIN_TTY", os.ttyname(theirs))
    with Progress("score", total=4, unit="items") as progress:
        progress._drawn -= 1
        progress.advance(2)
        drawn = os.read(ours, 4096).decode()
    assert "━" * 12 + "·" * 12 + " score 2/4 items 50%" in drawn


def test_a_terminal_that_is_gone_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_TTY", "/nowhere/pts/9")
    assert terminal() is None
    assert list(track(range(3), "rows", total=3)) == [0, 1, 2]
