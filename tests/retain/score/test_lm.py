"""The engine against lm-eval's own `hf` backend: the same numbers on every kind of task."""

from pathlib import Path
from typing import Any

import pytest

from retain import models

ASKED = [
    ("tiny_choice", 0), ("tiny_choice", 3), ("tiny_letters", 0), ("tiny_inputs", 0), ("tiny_last", 0), ("tiny_text", 0),
    ("tiny_answer", 0), ("tiny_answer", 2),
]  # fmt: skip


def evaluate(lm: Any, tasks: Path, names: list[str], **settings: Any) -> Any:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return simple_evaluate(lm, tasks=names, task_manager=manager, bootstrap_iters=0, **settings)


@pytest.fixture(scope="module")
def reference(tiny_llama: Path) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=models.load_model(tiny_llama, dtype="fp32"),
        tokenizer=models.load_tokenizer(tiny_llama),
        batch_size=3,
    )


@pytest.mark.parametrize(("name", "shots"), ASKED)
def test_numbers_are_those_of_lm_eval(
    name: str, shots: int, tiny_tasks: Path, tiny_engine: Any, reference: Any
) -> None:
    settings: dict[str, Any] = {"num_fewshot": shots} if shots else {}
    theirs = evaluate(reference, tiny_tasks, [name], **settings)["samples"][name]
    ours = evaluate(tiny_engine(), tiny_tasks, [name], **settings)["samples"][name]
    assert len(ours) == len(theirs) > 0
    for one, two in zip(ours, theirs, strict=True):
        assert (one["doc_id"], one["filter"]) == (two["doc_id"], two["filter"])
        for a, b in zip(one["resps"], two["resps"], strict=True):
            assert_same(a[0], b[0])


def assert_same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, str):
        assert ours == theirs
    elif isinstance(theirs, tuple):
        assert ours == (pytest.approx(theirs[0], abs=1e-3), theirs[1])
    else:
        assert ours == pytest.approx(theirs, abs=1e-3)
