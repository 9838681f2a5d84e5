import pytest

from retain.rehearse.config import RehearseConfig
from retain.rehearse.filters import Sieve, repeat_share

LOOP = "the parcel will come on monday " * 8


def test_a_loop_has_a_high_share_of_repeats_and_prose_has_none() -> None:
    assert repeat_share(LOOP) > 0.8
    assert repeat_share("please send the invoice to the shop and the parcel to the customer") == 0.0
    assert repeat_share("") == 0.0


@pytest.mark.parametrize(
    ("question", "answer", "finished", "reason"),
    [
        ("who?", "you", True, ""),
        ("who?", " \n", True, "empty"),
        ("who?", "you and", False, "unfinished"),
        ("who?", LOOP, True, "loop"),
        (LOOP, "no", True, "loop"),
    ],
)
def test_reasons(question: str, answer: str, finished: bool, reason: str) -> None:
    assert Sieve(RehearseConfig()).reason(question, answer, finished=finished) == reason


def test_a_question_or_an_answer_is_kept_once() -> None:
    sieve = Sieve(RehearseConfig())
    pairs = [
        ("who?", "it is you, sir"),
        ("Who? ", "me"),
        ("what?", "It is YOU, sir"),
        ("what?", "yes"),
        ("when?", "yes"),
    ]
    assert [sieve.reason(q, a, finished=True) for q, a in pairs] == ["", "repeat", "repeat", "", ""]
    assert sieve.dropped == {"repeat": 2}


def test_settings_loosen_the_sieve() -> None:
    loose = Sieve(RehearseConfig(keep_unfinished=True, max_repeat_share=1.0))
    assert loose.reason("who?", LOOP, finished=False) == ""
