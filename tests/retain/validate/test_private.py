"""Personal data and secrets: what counts, what does not, and how well the patterns do on public data."""

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retain.validate import credentials, pii
from retain.validate.private import ALL_KINDS, mask

DATA = Path(os.environ.get("RETAIN_DATA", Path(__file__).parents[4] / "shared" / "data"))
GITHUB = "ghp_" + "a1B2c3D4e5F6g7H8i9J0" * 2


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to jane.roe+shop@parcels.co.uk.", "write to [email]."),
        ("card 4111 1111 1111 1111 or 5500-0000-0000-0004", "card [card] or [card]"),
        ("IBAN DE89 3704 0044 0532 0130 00 please", "IBAN [iban] please"),
        ("iban gb29nwbk60161331926819", "iban [iban]"),
        ("SSN 536-90-4399", "SSN [national_id]"),
        ("NINO AB 12 34 56 C", "NINO [national_id]"),
        (
            "DNI 12345678Z, CPF 529.982.247-25, SIN 046 454 286, PESEL 44051401359",
            "DNI [national_id], CPF [national_id], [national_id], [national_id]",
        ),
        ("call +44 20 7946 0958 or (212) 555-0198 x12", "call [phone] or [phone]"),
        ("tel. 024 971 50 30", "tel. [phone]"),
        ("from 8.8.4.4 and 2001:4860:4860::8888", "from [ip] and [ip]"),
    ],
)
def test_personal_data(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "card 4111 1111 1111 1112", "IBAN FR14 2004 1010 0505 0001 3M02 607", "SSN 000-12-3456", "DNI 12345678A", "CPF 529.982.247-26",
        "on 2024-01-31 and 31.01.2024", "in 2023-2024", "order 12345678901", "10.0.0.1 and 127.0.0.1", "see someone@example.com", "@handle",
        "pi is 3.14159265358979", "0000 0000 0000 0000", "version 1.2.3.4567", "1 000 000 000 dollars", "ISBN 978-3-16-148410-0",
    ],
)  # fmt: skip
def test_what_only_looks_like_it(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize(
    "secret",
    [
        "AKIAIOSFODNN7QRSTUVW", GITHUB, "github_pat_" + "11ABCDEFG0" * 7, "glpat-a1B2c3D4e5F6g7H8i9J0", "-----BEGIN RSA PRIVATE KEY-----", "-----BEGIN ENCRYPTED PRIVATE KEY-----",
        "xoxb-123456789012-abcdefGHIJKL", "sk-proj-a1B2c3D4e5F6g7H8i9J0k", "hf_" + "aBcDeFgHiJ" * 4, "AIza" + "a1B2c3D4e5F6g7H8i9J0a1B2c3D4e5F6g7H", "Bearer a1B2c3D4e5F6g7H8i9J0k1",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "postgres://app:Tr0ub4dor@db.internal/shop", "aws_secret_access_key = wJalrXUtnFEMIK7MDENGbPxRfiCYzQq1w2E3r4T5",
    ],
)  # fmt: skip
def test_secrets(secret: str) -> None:
    (found,) = credentials.find(f"so it is: {secret} and that was it")
    assert found.kind == "secret"


@pytest.mark.parametrize(
    "text",
    [
        "password: hunter2",
        "password = 'kX9$mQ2vL7'",
        "api_key=YOUR_API_KEY_12345678",
        "the secret is patience",
        "token: a-normal-looking-word",
    ],
)
def test_words_beside_a_password(text: str) -> None:
    assert bool(credentials.find(text)) is ("kX9" in text)


def rows(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8", newline="\n") as stream:
        yield from (json.loads(line) for line in stream)


KINDS = {
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "US_SSN": "national_id",
    "IP_ADDRESS": "ip",
}
# kind → (precision, recall) at least; measured: email, iban, ip 1/1, card .99/.99, national_id .94/1, phone 1/.90.
AT_LEAST = {
    "email": (0.99, 0.99),
    "iban": (0.99, 0.99),
    "ip": (0.99, 0.99),
    "card": (0.97, 0.97),
    "national_id": (0.9, 0.99),
    "phone": (0.95, 0.85),
}
CLEAN = {
    "domain/math_gsm8k_train": 0,
    "domain/medical_mts_dialog": 0,
    "domain/sql_wikisql_text": 0,
    "instruct/alpaca": 0.001,
    "instruct/code_alpaca_2k": 0.002,
}


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no public data at {DATA} (RETAIN_DATA)")
def test_precision_and_recall_on_synthetic_sentences() -> None:
    """1500 sentences with spans by Presidio's generator (Microsoft presidio-research, synth_dataset_v2)."""
    right, wrong, missed = Counter[str](), Counter[str](), Counter[str]()
    for row in rows("safety/pii_presidio_synthetic.jsonl.gz"):
        gold = [
            (KINDS[s["entity_type"]], s["start_position"], s["end_position"])
            for s in row["spans"]
            if s["entity_type"] in KINDS
        ]
        found = [(f.kind, f.start, f.end) for f in pii.find(row["full_text"], ALL_KINDS)]
        missed.update(g[0] for g in gold if not any(overlap(g, f) for f in found))
        wrong.update(f[0] for f in found if not any(overlap(g, f) for g in gold))
        right.update(g[0] for g in gold if any(overlap(g, f) for f in found))
    for kind, (precision, recall) in AT_LEAST.items():
        print(
            f"{kind}: precision {right[kind] / (right[kind] + wrong[kind]):.3f}, recall {right[kind] / (right[kind] + missed[kind]):.3f}, n {right[kind] + missed[kind]}"
        )
        assert right[kind] / (right[kind] + wrong[kind]) >= precision, kind
        assert right[kind] / (right[kind] + missed[kind]) >= recall, kind


def overlap(one: tuple[str, int, int], two: tuple[str, int, int]) -> bool:
    return one[0] == two[0] and one[1] < two[2] and two[1] < one[2]


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no public data at {DATA} (RETAIN_DATA)")
@pytest.mark.parametrize("name", CLEAN)
def test_few_false_alarms_on_ordinary_data(name: str) -> None:
    texts = [" ".join(map(str, row.values())) for row in rows(f"{name}.jsonl.gz")]
    hit = [
        text
        for text in texts
        if pii.find(text, ("email", "phone", "card", "iban", "national_id")) or credentials.find(text)
    ]
    print(f"{name}: {len(hit)} of {len(texts)} rows")
    assert len(hit) <= CLEAN[name] * len(texts)
