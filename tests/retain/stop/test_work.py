from pathlib import Path

import pytest

from retain.artifacts import write_json
from retain.errors import Inconclusive, IntegrityError, Regressed
from retain.stop.work import ending, stop


def verdict(folder: Path, code: int, end_run: str = "red") -> Path:
    reason = {"code": "benchmark_drop", "benchmark": "sciq", "got": 10.25, "limit": 1.0}
    write_json(
        folder / "verdict.json",
        {
            "schema": "retain.verdict/1",
            "verdict": "regressed",
            "exit_code": code,
            "reasons": [reason],
            "policy": {"end_run": end_run},
        },
    )
    return folder


@pytest.mark.parametrize(("code", "kind"), [(3, Regressed), (4, Inconclusive), (6, IntegrityError)])
def test_a_closed_gate_ends_red_with_its_code_and_reason(tmp_path: Path, code: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"benchmark_drop sciq 10\.25 \(limit 1\.0\)") as error:
        stop(verdict(tmp_path, code))
    assert error.value.exit_code == code  # type: ignore[attr-defined]


def test_a_closed_gate_may_end_green_without_registering(tmp_path: Path) -> None:
    stop(verdict(tmp_path, 3, end_run="green"))


def test_a_run_that_waits_for_a_person_ends_green(tmp_path: Path) -> None:
    stop(verdict(tmp_path, 5))


def test_every_exit_code_of_a_verdict_has_its_final_task() -> None:
    names = [ending(code) for code in (0, 3, 4, 5, 6)]
    assert names == ["publish", "stop-regressed", "stop-inconclusive", "await-approval", "stop-integrity"]
