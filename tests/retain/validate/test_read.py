"""Every kind of file gives the same records."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from retain.errors import DataRefused
from retain.validate.read import records

ROWS: list[dict[str, Any]] = [{"text": f'line one of {i}\nline two, "quoted"', "label": str(i)} for i in range(5)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)


def values(path: Path) -> list[Any]:
    found = list(records(path))
    assert [record.row for record in found] == list(range(1, len(found) + 1))
    return [record.value for record in found]


def as_csv(delimiter: str) -> str:
    quoted = [[json.dumps(v)[1:-1].replace('\\"', '""').replace("\\n", "\n") for v in row.values()] for row in ROWS]
    return f"text{delimiter}label\r\n" + "".join(f'"{a}"{delimiter}{b}\r\n' for a, b in quoted)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSONL.encode()),
        ("a.json", JSONL.encode()),
        ("array.json", json.dumps(ROWS, indent=2).encode()),
        ("bom.jsonl", b"\xef\xbb\xbf" + JSONL.encode()),
        ("crlf.jsonl", JSONL.replace("\n", "\r\n").encode()),
        ("a.jsonl.gz", gzip.compress(JSONL.encode())),
        ("a.jsonl.zst", zstandard.compress(JSONL.encode())),
        ("array.json.zst", zstandard.compress(json.dumps(ROWS).encode())),
        ("no-suffix", JSONL.encode()),
        ("a.csv", as_csv(",").encode()),
        ("a.csv.gz", gzip.compress(as_csv(";").encode())),
        ("a.tsv", as_csv("\t").encode()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # bytes of an archive hold its time: no stable name
)
def test_every_kind_reads_alike(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert values(path) == ROWS


def test_parquet_with_its_types(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}], "label": True}, {"messages": [], "label": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == rows


def test_an_array_larger_than_the_buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retain.validate.read.READ_CHARS", 7)
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    assert values(tmp_path / "a.json") == ROWS


def test_a_broken_array_names_the_element(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1}, {"a": 2}, {"a": ]')
    with pytest.raises(DataRefused, match="element 3"):
        list(records(tmp_path / "a.json"))


def test_text_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path: Path) -> None:
    text = "\n".join(f"{'word ' * 30}{i}\n" for i in range(40))
    (tmp_path / "a.txt").write_text(text)
    pieces = list(records(tmp_path / "a.txt", text_chars=500))
    assert "".join(str(p.value["text"]) for p in pieces if p.value) == text
    assert all(500 <= len(p.text()) < 800 for p in pieces[:-1])
    assert pieces[1].row > pieces[0].row
    assert len(list(records(tmp_path / "a.txt", text_chars=0))) == 1


def test_a_csv_row_with_too_many_cells(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nfine,1\none,two,three\n")
    (_, bad) = records(tmp_path / "a.csv")
    assert (bad.row, bad.reason, bad.detail, bad.text()) == (2, "schema", "3 cells, the header has 2", "one,two,three")


def test_an_unknown_kind(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04...")
    with pytest.raises(DataRefused, match="this kind of data file is not known"):
        list(records(tmp_path / "a.xlsx"))


def test_a_damaged_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataRefused, match="Parquet file is damaged"):
        list(records(tmp_path / "a.parquet"))
