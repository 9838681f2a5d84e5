"""The page: verdict first, everything from data escaped and masked, nothing from outside."""

import re

import pytest
from tests.retain.validate.conftest import Check, Out, chat, says

from retain.errors import DataRefused

ROWS = [
    *(chat(i) for i in range(10)),
    says(("user", "<script>alert('x')</script>\x07"), ("assistant", "ok")),
    says(("user", "mail jane.roe@parcels.co.uk, card 4111 1111 1111 1111"), ("assistant", "AKIAIOSFODNN7QRSTUVW")),
    *[says(("user", f"anyone {i}?")) for i in range(4)],
]


def test_accepted(check: Check, out: Out) -> None:
    check(ROWS)
    page = out.page()
    assert page.startswith("<!doctype html>\n<!-- Rows accepted: 10 of 16 rows are fit, 6 rejected -->")
    assert "messages (detected)" in page
    assert page.index("Rows accepted") < page.index("What was detected") < page.index("Expectations")


def test_nothing_dangerous_or_private_is_shown(check: Check, out: Out) -> None:
    check(ROWS)
    page = out.page()
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in page
    assert "mail [email], card [card]" in page
    assert not re.search(r"jane\.roe|4111|AKIA|https?://|\bsrc=|\bhref=", page)


def test_refused_says_why_and_what_to_do(check: Check, out: Out) -> None:
    with pytest.raises(DataRefused):
        check(ROWS, max_rejected_share=0.1)
    page = out.page()
    assert "<!-- Rows refused" in page
    assert "6 of 16 rows (37.5%): no_answer 4, " in page
    assert "allowed: 10.0% (max_rejected_share)" in page


def test_as_many_examples_as_wished(check: Check, out: Out) -> None:
    for wished in (0, 1, 3):
        check(ROWS, examples=wished)
        assert out.page().count("anyone") == wished


def test_expectations_are_those_of_the_suite(check: Check, out: Out) -> None:
    check(ROWS, refusal="off")
    rows = re.findall(
        r"<tr><td>([^<]*)</td><td>([^<]*)</td><td class=n>([^<]*)</td><td class=n>([^<]*)</td><td>(rejected|noticed)</td>",
        out.page(),
    )
    assert len(rows) == 21  # near_duplicate and refusal are off
    assert ("the assistant&#x27;s turn is missing", "no_answer ≤ 0", "4", "25.00%", "rejected") in rows
    assert ("too many tokens", "tokens ≤ 512", "0", "0.00%", "rejected") in rows


def test_classes_are_counted(check: Check, out: Out) -> None:
    check([{"text": f"row {i}", "label": i % 10 == 0} for i in range(20)])
    assert "false: 18, true: 2" in out.page()
    assert "one class has 90% of the rows" in out.page()
