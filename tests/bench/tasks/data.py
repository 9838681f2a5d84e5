"""Documents of the benchmark tasks in this folder, read from a folder of public data files that is no part of the repository.

The folder is named by RETAIN_DATA, or is `shared/data` beside the checkout.
"""

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets

SIBLING = Path(__file__).resolve().parents[4] / "shared" / "data"


def root() -> Path:
    return Path(os.environ.get("RETAIN_DATA") or SIBLING)


def rows(name: str) -> list[dict[str, Any]]:
    """JSON rows of `benchmarks/<name>.jsonl` or `.jsonl.gz`, split on newlines only (some values hold U+2028)."""
    plain = root() / "benchmarks" / f"{name}.jsonl"
    text = plain.read_bytes() if plain.is_file() else gzip.decompress(Path(f"{plain}.gz").read_bytes())
    return [json.loads(line) for line in text.split(b"\n") if line]


def splits(test: list[dict[str, Any]], train: list[dict[str, Any]] | None, shots: int) -> dict[str, datasets.Dataset]:
    """test and train; without train rows the last `shots` test rows serve as few-shot examples and are not asked."""
    if train is None and not shots:
        return {"test": datasets.Dataset.from_list(test)}
    if train is None:
        test, train = test[: len(test) - shots], test[len(test) - shots :]
    return {"test": datasets.Dataset.from_list(test), "train": datasets.Dataset.from_list(train)}


def load(test: str, shots: int = 40, **_: Any) -> dict[str, datasets.Dataset]:
    return splits(rows(test), None, shots)


def arc(test: str, train: str, **_: Any) -> dict[str, datasets.Dataset]:
    """The two ARC files have two layouts: choices and the index of the right one, or the hub's labels and key."""
    return splits([_arc(row) for row in rows(test)], [_arc(row) for row in rows(train)], 0)


def _arc(row: dict[str, Any]) -> dict[str, Any]:
    if isinstance(row["choices"], list):
        return {"question": row["question"], "choices": row["choices"], "label": row["label"]}
    names = row["choices"]["label"]
    return {"question": row["question"], "choices": row["choices"]["text"], "label": names.index(row["answerKey"])}


def hellaswag(test: str, shots: int = 40, **_: Any) -> dict[str, datasets.Dataset]:
    """Half of the rows are raw (lm-eval's cleaning is applied to them), half are cleaned already."""
    return splits([_hellaswag(row) for row in rows(test)], None, shots)


def _hellaswag(row: dict[str, Any]) -> dict[str, Any]:
    clean = str if row["preprocessed"] else _clean
    context = row["ctx"] if row["preprocessed"] else row["ctx_a"] + " " + row["ctx_b"].capitalize()
    return {
        "query": clean(f"{row['activity_label']}: {context}"), "choices": [clean(ending) for ending in row["endings"]],
        "label": int(row["label"]), "cluster": str(row.get("source_id") or row["ind"]),
    }  # fmt: skip


def _clean(text: str) -> str:
    """lm-eval's hellaswag/utils.py, `preprocess`."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def lettered(test: str, shots: int = 40, **_: Any) -> dict[str, datasets.Dataset]:
    """Rows whose choices carry letters: the key becomes an index."""
    found = [
        {**row, "choices": row["choices"]["text"], "label": row["choices"]["label"].index(row["answerKey"])}
        for row in rows(test)
    ]
    return splits(found, None, shots)


def mmlu(test: str, train: str, **_: Any) -> dict[str, datasets.Dataset]:
    """One task over all subjects, each a stratum."""
    both = [[{**row, "stratum": row["subject"]} for row in rows(name)] for name in (test, train)]
    return splits(both[0], both[1], 0)


def truthfulqa(**_: Any) -> dict[str, datasets.Dataset]:
    """The best answer before the wrong ones (the paper's MC1)."""
    found = [
        {"question": row["Question"], "choices": [row["Best Answer"], *_parts(row["Incorrect Answers"])]}
        for row in rows("truthfulqa")
    ]
    return splits(found, None, 40)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


# Instructions whose checks need nltk's punkt data, which no package index has.
NEED_PUNKT = ("length_constraints:number_sentences", "change_case:capital_word_frequency")


def ifeval(**_: Any) -> dict[str, datasets.Dataset]:
    """Prompts whose instructions can be checked without further data; the names without their language."""
    found = [{**row, "instruction_id_list": [name.removeprefix("en:") for name in row["instruction_id_list"]]} for row in rows("ifeval_en")]  # fmt: skip
    return splits([row for row in found if not set(NEED_PUNKT) & set(row["instruction_id_list"])], None, 0)


def follows(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """lm-eval's own checks of the instructions."""
    with patch.dict(os.environ, LOCAL_RANK="1"):  # when imported, the first process of several fetches nltk's data
        from lm_eval.tasks.ifeval.utils import process_results

    found = process_results(doc, results)
    return {name: found[name] for name in ("prompt_level_strict_acc", "inst_level_strict_acc")}


def words(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Of an open question's answer, which is for a judge."""
    return {"words": float(len(results[0].split()))}


def wikitext(**_: Any) -> dict[str, datasets.Dataset]:
    """The test file of WikiText-2, an article a document."""
    with gzip.open(root() / "text" / "wikitext2_test.txt.gz", "rt", encoding="utf-8") as stream:
        articles = re.split(r"\n (?== [^=])", stream.read())
    found = [{"text": article.strip()} for article in articles if article.strip()]
    return splits(found, found[:1], 0)


def winogrande_choices(doc: dict[str, Any]) -> list[str]:
    before = doc["sentence"][: doc["sentence"].index("_")]
    return [before + doc["option1"], before + doc["option2"]]


def winogrande_target(doc: dict[str, Any]) -> str:
    return str(doc["sentence"][doc["sentence"].index("_") + 1 :].strip())


def copa_choices(doc: dict[str, Any]) -> list[str]:
    return [" " + choice[0].lower() + choice[1:] for choice in (doc["choice1"], doc["choice2"])]
