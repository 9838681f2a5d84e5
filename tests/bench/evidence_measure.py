"""One row of the methods' evidence: rows out of the public files, a training, and four measurements of what it wrote."""

import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("RETAIN_DATA") or HERE.parents[2] / "shared" / "data")
TRAIN_ROWS, TEST_ROWS, REPLAY_SHARE = 384, 240, 0.05
LABELS = ("negative", "neutral", "positive")
PASSAGES, PASSAGE_CHARACTERS = 10, 1500
BENCHMARKS = {"arc_easy": 240, "sciq": 160}
SOFT_PROMPTS = ("prefix", "prompt", "p_tuning")


def prepare(folder: Path, base: str) -> None:
    """folder/base, folder/mixture (target rows alone), folder/mixture-replay (with general rows, 5 % of the tokens), folder/mixture-probe (classes)."""
    from retain import artifacts, models, uris
    from retain.tracking import home

    found, _ = uris.resolve_base(base, "", home() / "bases")
    (folder / "base").symlink_to(found)
    tokenizer = models.load_tokenizer(found)
    rows = _jsonl("domain/finance_phrasebank_75agree", TRAIN_ROWS)
    target = [_tokens(tokenizer, question(row), row["label"], "target", i) for i, row in enumerate(rows)]
    classes = [_class(tokenizer, question(row), row["label"], i) for i, row in enumerate(rows)]
    artifacts.write_rows(folder / "mixture-probe", "retain.mixture/1", classes, options={"class_names": list(LABELS)})
    general = [_tokens(tokenizer, f"{row['instruction']}\n{row['context']}".strip(), row["response"], "replay", i) for i, row in enumerate(_jsonl("instruct/dolly", 200))]  # fmt: skip
    general = [row for row in general if len(row["input_ids"]) <= 512]
    held_out = [row | {"split": "validation"} for row in general[-8:]]
    artifacts.write_rows(folder / "mixture", "retain.mixture/1", target + held_out)
    budget, replayed = REPLAY_SHARE / (1 - REPLAY_SHARE) * sum(len(row["input_ids"]) for row in target), []
    for row in general[:-8]:
        if budget > 0:
            replayed.append(row)
            budget -= len(row["input_ids"])
    artifacts.write_rows(folder / "mixture-replay", "retain.mixture/1", target + replayed + held_out)


def _jsonl(name: str, count: int, start: int = 0) -> list[dict[str, Any]]:
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8", newline="\n") as stream:
        return [json.loads(line) for i, line in enumerate(stream) if start <= i < start + count]


def question(row: dict[str, Any]) -> str:
    return f"Sentiment of: {row['sentence']}"


def _prompt(tokenizer: Any, text: str) -> str:
    return str(tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True))  # fmt: skip


def _tokens(tokenizer: Any, asked: str, answer: str, part: str, number: int) -> dict[str, Any]:
    before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (_prompt(tokenizer, asked), answer + tokenizer.eos_token))  # fmt: skip
    return {
        "id": f"{part}-{number}", "source": part, "part": part, "split": "train", "weight": 1.0, "input_ids": before + after,
        "labels": [-100] * len(before) + after, "n_supervised": len(after),
    }  # fmt: skip


def _class(tokenizer: Any, asked: str, label: str, number: int) -> dict[str, Any]:
    ids = tokenizer(_prompt(tokenizer, asked), add_special_tokens=False)["input_ids"]
    return {"id": f"class-{number}", "source": "target", "part": "target", "split": "train", "weight": 1.0, "input_ids": ids, "labels": [LABELS.index(label)], "n_supervised": 1}  # fmt: skip


def row(name: str, settings: dict[str, Any], replay: bool, folder: Path) -> dict[str, Any]:
    """Train (unless it is the base itself) and measure; memory in bytes above what the imports hold."""
    if name == "base":
        return {"name": name, **measure(folder / "base", None, "")}
    method = settings.get("method", "lora")
    rows = "mixture-replay" if replay else "mixture-probe" if method == "probe" else "mixture"
    trained = _trained(settings, folder / rows, folder)
    if method == "probe":  # the base is what answers everything else
        return {"name": name, **trained, **measure(folder / "base", None, ""), **_probed(folder)}
    return {"name": name, **trained, **measure(folder / "base", folder / "adapter", method)}


def _trained(settings: dict[str, Any], mixture: Path, folder: Path) -> dict[str, Any]:
    import shutil

    import torch

    from retain.train import engine, work  # noqa: F401  the engine's imports are not the training's memory
    from retain.train.config import TrainConfig, rate
    from retain.train.memory import Peak

    shutil.rmtree(folder / "adapter", ignore_errors=True)
    config = TrainConfig.model_validate(settings)
    peak = Peak()
    result = work.train(config, mixture, folder / "base", folder / "adapter", folder / "checkpoints")
    return {
        "method": config.method, "rate": rate(config), "steps": result.steps, "train_loss_nats": result.train_loss_nats,
        "trained_parameters": result.trainable_parameters, "peak_bytes": peak.bytes(result.peak_memory_bytes),
        "tokens_per_second": result.tokens_per_second, "threads": torch.get_num_threads(),
    }  # fmt: skip


def measure(base: Path, adapter: Path | None, method: str) -> dict[str, Any]:
    """Target accuracy and macro-F1, nats a token on Wikipedia, accuracy of each benchmark; percentages but for the nats."""
    from retain import models

    started = time.monotonic()
    tokenizer = models.load_tokenizer(base)
    asker = _asker(tuned(base, adapter), tokenizer, by_lm_eval=method in SOFT_PROMPTS)
    found = {**_target(asker, tokenizer), "wikitext_nats": _wikitext(asker, tokenizer), **_benchmarks(asker)}
    return {**found, "measured_seconds": round(time.monotonic() - started, 1)}


def tuned(base: Path, adapter: Path | None) -> Any:
    """The base with what a training wrote: changed weights, bottleneck adapters, or peft's own."""
    from safetensors.torch import load_file

    from retain import artifacts, models
    from retain.train import bottleneck

    model = models.load_model(base)
    if adapter is None:
        return model
    kind = artifacts.read_json(adapter / "retain.json", schema="retain.adapter/1")["kind"]
    if kind == "weights":
        for file in adapter.glob("*.safetensors"):
            model.load_state_dict(load_file(file), strict=False)
        model.tie_weights()
        return model
    if kind == "bottleneck":
        return bottleneck.load(model, adapter)
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False).to(model.dtype).eval()


def _asker(model: Any, tokenizer: Any, *, by_lm_eval: bool) -> Any:
    """Our scorer; virtual tokens shift positions, which only lm-eval's own backend follows (three times slower)."""
    from retain.score.lm import Engine
    from retain.score.place import BATCH_TOKENS

    if by_lm_eval:
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    return Engine(model, tokenizer, batch_tokens=BATCH_TOKENS[model.device.type])


def _instances(kind: str, arguments: list[tuple[str, ...]], each: int) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, given, i % each, metadata=("evidence", i // each, 1)) for i, given in enumerate(arguments)]  # type: ignore[arg-type]  # fmt: skip


def _target(asker: Any, tokenizer: Any) -> dict[str, float]:
    """The label with the highest likelihood as the answer."""
    rows = _test_rows()
    asked = [(_prompt(tokenizer, question(row)), label) for row in rows for label in LABELS]
    values = [value for value, _ in asker.loglikelihood(_instances("loglikelihood", asked, len(LABELS)))]
    said = [max(range(len(LABELS)), key=lambda k: values[3 * i + k]) for i in range(len(rows))]
    return _quality(said, rows)


def _probed(folder: Path) -> dict[str, float]:
    """The class that the head gives to the last state of the prompt."""
    from retain import models
    from retain.train import probe

    tokenizer, rows = models.load_tokenizer(folder / "base"), _test_rows()
    model = probe.load(models.load_model(folder / "base"), folder / "adapter")
    said = probe.classify(model, tokenizer, [_prompt(tokenizer, question(row)) for row in rows])
    return _quality([LABELS.index(label) for label in said], rows)


def _test_rows() -> list[dict[str, Any]]:
    return _jsonl("domain/finance_phrasebank_75agree", TEST_ROWS, start=3000)


def _quality(said: list[int], rows: list[dict[str, Any]]) -> dict[str, float]:
    meant = [LABELS.index(row["label"]) for row in rows]
    hits = sum(s == m for s, m in zip(said, meant, strict=True))
    return {"target_accuracy": 100 * hits / len(rows), "target_macro_f1": 100 * _macro_f1(said, meant)}


def _macro_f1(said: list[int], meant: list[int]) -> float:
    scores = []
    for label in range(len(LABELS)):
        hits = sum(s == m == label for s, m in zip(said, meant, strict=True))
        scores.append(2 * hits / max(said.count(label) + meant.count(label), 1))
    return sum(scores) / len(scores)


def _wikitext(asker: Any, tokenizer: Any) -> float:
    """Mean loss of the first passages of WikiText-2's test text, each on its own (about 3 500 tokens)."""
    with gzip.open(DATA / "text" / "wikitext2_test.txt.gz", "rt", encoding="utf-8") as stream:
        text = " ".join(stream.read(2 * PASSAGES * PASSAGE_CHARACTERS).split())
    passages = [text[i * PASSAGE_CHARACTERS : (i + 1) * PASSAGE_CHARACTERS] for i in range(PASSAGES)]
    found = asker.loglikelihood_rolling(_instances("loglikelihood_rolling", [(p,) for p in passages], 1))
    tokens = sum(len(tokenizer(p, add_special_tokens=False)["input_ids"]) for p in passages)
    return -sum(found) / tokens


def _benchmarks(asker: Any) -> dict[str, float]:
    from retain.score import tasks
    from retain.score.config import ScoreConfig, TaskSpec

    found = {}
    for name, limit in BENCHMARKS.items():
        config = ScoreConfig(tasks=[TaskSpec(name=name, limit=limit, num_fewshot=0)], include_path=[str(HERE / "tasks")])  # fmt: skip
        asked = tasks.build_requests(tasks.load(config)[0], config, None, "")
        values: dict[int, list[tuple[float, int]]] = {}
        for request, (value, _) in zip(asked, asker.loglikelihood(asked), strict=True):
            values.setdefault(request.doc_id, []).append((value, request.idx))
        gold = {request.doc_id: _gold(name, request.doc) for request in asked}
        found[name] = 100 * sum(max(pairs)[1] == gold[doc] for doc, pairs in values.items()) / len(values)
    return found


def _gold(name: str, doc: dict[str, Any]) -> int:
    return 3 if name == "sciq" else int(doc["label"])
