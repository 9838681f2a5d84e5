"""The methods' evidence goes on behind its last whole row, and writes one section without touching the others."""

import argparse
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from retain.config import parse
from retain.train import rules
from retain.train.config import TrainConfig

PAGE = "# Evidence\n\n## Other\n\ntext\n\n## Open\n\n- much\n"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


table, methods = module("evidence_table"), module("evidence_methods")
BASE = {"name": "base", "target_accuracy": 20.0, "target_macro_f1": 10.0, "wikitext_nats": 3.0, "arc_easy": 50.0, "sciq": 70.0, "commit": "c0"}  # fmt: skip


def row(name: str, **changes: Any) -> dict[str, Any]:
    return {**BASE, "name": name, "trained_parameters": 1000, "peak_bytes": 2**30, "tokens_per_second": 100.0, "seed": 0, "commit": "c1", **changes}  # fmt: skip


def test_a_section_is_put_in_and_replaced() -> None:
    first = table.put(PAGE, table.section([BASE, row("lora", wikitext_nats=3.05, arc_easy=49.0)]))
    assert "| lora | 20.0 | 10.0 | +0.050 | -1.0 | +0.0 | 1,000 | 1,024 | 100 |" in first
    assert first.index(table.TITLE) < first.index("## Open")
    again = table.put(first, table.section([BASE, row("full")]))
    assert again.count(table.TITLE) == 1
    assert "lora" not in again
    assert again.endswith("## Open\n\n- much\n")


def test_seeds_become_a_mean_and_a_failure_is_a_row_that_says_so() -> None:
    rows = [BASE, row("lora", seed=0, sciq=71.0), row("lora", seed=1, sciq=73.0), {"name": "osf", "failed": "no | such", "commit": "c1"}]  # fmt: skip
    text = table.section(rows)
    assert "| lora (2) |" in text
    assert "+2.0 ± 1.0" in text
    assert "| osf | refused: no / such |" in text


def test_a_killed_run_goes_on_behind_its_last_whole_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, asked = tmp_path / "rows.jsonl", []

    def child(entry: Any, seed: int, folder: str) -> dict[str, Any]:
        asked.append((entry.name, seed))
        if len(asked) == 3:
            with results.open("a") as stream:
                stream.write('{"key": "torn')
            raise KeyboardInterrupt
        return row(entry.name)

    monkeypatch.setattr(methods, "_child", child)
    monkeypatch.setitem(__import__("sys").modules, "evidence_measure", argparse.Namespace(prepare=lambda *_: None))
    given = argparse.Namespace(only="every weight", main_seeds=2)
    with pytest.raises(KeyboardInterrupt):
        methods._run(given, results)
    assert [r["name"] for r in table.read(results)] == ["base", "every weight, 1e-5"]
    methods._run(given, results)
    assert asked[2] == asked[3]
    names = [json.loads(line).get("name") for line in results.read_text().splitlines() if not line.startswith('{"key": "torn')]  # fmt: skip
    assert names == ["base", "every weight, 1e-5", "every weight, 1e-3 (hurried)", "every weight, 1e-3, 5 % replay", "every weight, 1e-5", "every weight, 1e-3 (hurried)"]  # fmt: skip


@pytest.mark.parametrize("entry", methods.ENTRIES, ids=lambda entry: entry.name)
def test_every_row_is_a_recipe_that_may_run(entry: Any) -> None:
    rules.check(parse(TrainConfig, methods.settings(entry, 0)), "cpu")
