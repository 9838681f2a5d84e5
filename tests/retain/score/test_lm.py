"""The engine against lm-eval's own `hf` backend: the same numbers on every kind of task."""

from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from retain import models

ASKED = {0: ["tiny_choice", "tiny_letters", "tiny_inputs", "tiny_last", "tiny_text", "tiny_answer"], 2: ["tiny_answer"], 3: ["tiny_choice"]}  # fmt: skip
Samples = dict[tuple[str, int], tuple[list[Any], list[Any]]]


@pytest.fixture(scope="module")
def both(tiny_llama: Path, tiny_tasks: Path, tiny_engine: Any) -> Samples:
    """(task, shots) → lm-eval's samples with its own backend and with ours."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    reference = HFLM(pretrained=models.load_model(tiny_llama, dtype="fp32"), tokenizer=models.load_tokenizer(tiny_llama), batch_size=3)  # fmt: skip
    manager = TaskManager(include_path=str(tiny_tasks), include_defaults=False)
    found: Samples = {}
    for shots, names in ASKED.items():
        settings: dict[str, Any] = {"num_fewshot": shots} if shots else {}
        theirs, ours = (
            simple_evaluate(lm, tasks=names, task_manager=manager, bootstrap_iters=0, **settings)["samples"]
            for lm in (reference, tiny_engine())
        )
        found |= {(name, shots): (theirs[name], ours[name]) for name in names}
    return found


@pytest.mark.parametrize(("name", "shots"), [(name, shots) for shots, names in ASKED.items() for name in names])
def test_numbers_are_those_of_lm_eval(name: str, shots: int, both: Samples) -> None:
    theirs, ours = both[name, shots]
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


@pytest.mark.parametrize("generate", [True, False])
def test_a_token_the_model_has_no_weights_for_is_named(generate: bool, tiny_llama: Path) -> None:
    """As after a pad token that was added to the tokenizer alone; what does not hold it is scored as ever."""
    from retain.errors import IntegrityError
    from retain.score.lm import Engine

    tokenizer = models.load_tokenizer(tiny_llama)
    tokenizer.add_tokens(["<new>"])
    engine = Engine(models.load_model(tiny_llama, dtype="fp32"), tokenizer)
    kind, rest = ("generate_until", {"max_gen_toks": 2}) if generate else ("loglikelihood", " parcel")
    one, two = (Instance(kind, {}, (text, rest), 0, metadata=("words", number, 1)) for number, text in enumerate(("the shop", "the <new>")))  # fmt: skip
    assert getattr(engine, kind)([one])
    with pytest.raises(IntegrityError, match=r"no weights for\n  where: task words, document 1\n  got: <new>"):
        getattr(engine, kind)([one, two])
