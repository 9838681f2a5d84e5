"""Small benchmarks of every kind lm-eval knows, over the words the tiny tokenizer was trained on."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from retain.artifacts import write_rows
from retain.digest import canonical_json

SENTENCE = (
    "the customer asks where a parcel is and shop answers that it will come on monday morning please send an invoice"
)
WORDS = SENTENCE.split()

DATA = """
import json
from pathlib import Path
import datasets

def load(**kwargs):
    here = Path(__file__).parent
    read = lambda name: [json.loads(line) for line in (here / name).read_text().split("\\n") if line]
    return {"test": datasets.Dataset.from_list(read("rows.jsonl")), "train": datasets.Dataset.from_list(read("shots.jsonl"))}
"""
COMMON = """
custom_dataset: !function data.load
test_split: test
metadata: {version: 3.0}
"""
TASKS = {
    "tiny_choice": """
task: tiny_choice
output_type: multiple_choice
training_split: train
fewshot_config: {sampler: first_n}
doc_to_text: "{{question}}?"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
    "tiny_letters": """
task: tiny_letters
output_type: multiple_choice
num_fewshot: 0
doc_to_text: "{{question}}?"
doc_to_choice: ["a", "b", "c"]
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "tiny_inputs": """
task: tiny_inputs
output_type: multiple_choice
doc_to_text: "{{answer}}"
doc_to_choice: !function inputs.choices
doc_to_target: "{{question}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "tiny_last": """
task: tiny_last
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{choices[0]}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "tiny_text": """
task: tiny_text
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
""",
    "tiny_answer": """
task: tiny_answer
output_type: generate_until
training_split: train
doc_to_text: "{{question}}:"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["\\n", "?"], max_gen_toks: 8, do_sample: false}
filter_list:
  - {name: strict, filter: [{function: take_first}]}
  - {name: words, filter: [{function: regex, regex_pattern: "(\\\\w+)"}, {function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
}


def _doc(rng: random.Random, number: int) -> dict[str, Any]:
    words = lambda low, high: " ".join(rng.choices(WORDS, k=rng.randint(low, high)))  # noqa: E731
    return {
        "question": words(3, 9) + f" {number}", "choices": [words(1, 5) for _ in range(3)], "answer": rng.randrange(3),
        "cluster": f"frame-{number // 3}", "text": words(20, 60),
    }  # fmt: skip


def write_tasks(folder: Path, items: int = 9) -> Path:
    """A folder with the YAML files of TASKS and their documents."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.py").write_text(DATA)
    (folder / "inputs.py").write_text(
        "def choices(doc):\n    return [doc['question'] + ' ' + c for c in doc['choices']]\n"
    )
    rng = random.Random(7)
    for name, count in (("rows", items), ("shots", 6)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(_doc(rng, i)) + "\n" for i in range(count)))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text + COMMON)
    (folder / "tiny_group.yaml").write_text(
        "group: tiny_group\ntask: [tiny_choice, tiny_letters]\nmetadata: {version: 1.0}\n"
    )
    return folder


@pytest.fixture(scope="session")
def tiny_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory, chats: list[list[dict[str, str]]]) -> Path:
    """Ten chats as a dataset: the first seven for testing, the rest for training."""
    folder = tmp_path_factory.mktemp("dataset")
    rows = [
        {"id": f"r{i}", "source": "chats", "part": "target", "split": "test" if i < 7 else "train", "shape": "messages", "weight": 1.0,
         "payload": canonical_json({"messages": chat})}
        for i, chat in enumerate(chats)
    ]  # fmt: skip
    write_rows(folder, "retain.dataset/1", rows)
    return folder


@pytest.fixture(scope="session")
def tiny_engine(tiny_llama: Path) -> Any:
    """make(**settings) → the engine over the tiny Llama in fp32."""
    from retain import models
    from retain.score.lm import Engine

    model, tokenizer = models.load_model(tiny_llama, dtype="fp32"), models.load_tokenizer(tiny_llama)

    def make(**settings: Any) -> Engine:
        return Engine(model, tokenizer, **settings)

    return make
