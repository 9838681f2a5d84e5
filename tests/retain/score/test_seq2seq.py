"""Encoder–decoders against lm-eval's own `hf` backend, and through the whole step."""

from pathlib import Path
from typing import Any

import pytest

from retain import models
from retain.artifacts import read_scores, write_rows
from retain.digest import canonical_json
from retain.errors import ConfigError
from retain.score.config import ScoreConfig, TargetConfig, TaskSpec
from retain.score.work import score

from ...conftest import build_tokenizer

SHAPES: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0, "n_positions": 256},
    "bart": {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 2, "max_position_embeddings": 256, "bos_token_id": 0,
        "forced_eos_token_id": None,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=SHAPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    path, tokenizer = tmp_path_factory.mktemp(request.param) / "model", build_tokenizer()
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **SHAPES[request.param], vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=2)  # fmt: skip
    model = AutoModelForSeq2SeqLM.from_config(config)
    for parameter in model.parameters():  # fresh weights say nearly the same everywhere
        parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(str(path))
    tokenizer.save_pretrained(str(path))
    return path


NAMES = ["tiny_choice", "tiny_letters", "tiny_last", "tiny_answer"]


@pytest.fixture(scope="module")
def both(folder: Path, tiny_tasks: Path) -> Any:
    """Samples of each task by lm-eval's own backend, and by ours."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from retain.score.seq2seq import Seq2SeqEngine

    model, tokenizer = models.load_model(folder, dtype="fp32", seq2seq=True), models.load_tokenizer(folder)
    manager = TaskManager(include_path=str(tiny_tasks), include_defaults=False)
    return [
        simple_evaluate(lm, tasks=NAMES, task_manager=manager, bootstrap_iters=0)["samples"]
        for lm in (
            HFLM(pretrained=model, tokenizer=tokenizer, backend="seq2seq", batch_size=1),
            Seq2SeqEngine(model, tokenizer, batch_tokens=100),
        )
    ]


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_of_lm_eval(name: str, both: Any) -> None:
    theirs, ours = (samples[name] for samples in both)
    assert len(ours) == len(theirs) >= 9
    for one, two in zip(ours, theirs, strict=True):
        for [a], [b] in zip(one["resps"], two["resps"], strict=True):
            if isinstance(b, str):  # lm-eval adds the length of the prompt to the bound on the answer's
                assert b.startswith(a.rstrip("\N{REPLACEMENT CHARACTER}"))
            else:
                assert a == (pytest.approx(b[0], abs=1e-3), b[1])


def test_the_step_scores_benchmarks_and_the_target(folder: Path, tiny_tasks: Path, tmp_path: Path) -> None:
    import torch

    pairs = [("where is the parcel", "it will come on monday"), ("please send", "an invoice please")]
    rows = [
        {"id": f"r{i}", "source": "s", "part": "target", "split": "test", "shape": "seq2seq", "weight": 1.0, "payload": canonical_json({"source": a, "target": b})}
        for i, (a, b) in enumerate(pairs)
    ]  # fmt: skip
    write_rows(tmp_path / "dataset", "retain.dataset/1", rows)
    common: dict[str, Any] = {"include_path": [str(tiny_tasks)], "dtype": "fp32"}
    config = ScoreConfig(tasks=[TaskSpec(name="tiny_choice")], target=TargetConfig(metric="rougeL", max_new_tokens=4), **common)  # fmt: skip
    result = score(config, folder, tmp_path / "scores", dataset=tmp_path / "dataset")
    assert {name: facts["n"] for name, facts in result.tasks.items()} == {"tiny_choice": 9, "target": 2}
    score(ScoreConfig(target=TargetConfig(metric="token_loss"), **common), folder, tmp_path / "loss", dataset=tmp_path / "dataset")  # fmt: skip
    got = [row["value"] for row in read_scores(tmp_path / "loss")[0].to_pylist()]
    model, tokenizer = models.load_model(folder, dtype="fp32", seq2seq=True), models.load_tokenizer(folder)
    for value, (source, target) in zip(got, pairs, strict=True):
        ids, labels = ([*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in (source, target))
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        assert value == pytest.approx(-float(loss), abs=1e-4)


def test_running_text_is_refused(folder: Path, tiny_tasks: Path, tmp_path: Path) -> None:
    config = ScoreConfig(tasks=[TaskSpec(name="tiny_text")], include_path=[str(tiny_tasks)], dtype="fp32")
    with pytest.raises(ConfigError, match="no perplexity of running text"):
        score(config, folder, tmp_path / "scores")


def test_contexts_too_long_are_cut_and_counted(folder: Path, tiny_tasks: Path, tmp_path: Path) -> None:
    config = ScoreConfig(tasks=[TaskSpec(name="tiny_choice")], include_path=[str(tiny_tasks)], dtype="fp32", max_length=6)  # fmt: skip
    result = score(config, folder, tmp_path / "scores")
    assert 0 < result.truncated <= 9


@pytest.mark.parametrize("family", ["mbart", "m2m_100", "marian", "blenderbot"])
def test_an_answer_is_as_likely_beside_longer_ones(family: str) -> None:
    """mBART's decoder begins with a text's last token; M2M100 and Blenderbot shift labels in their own forward pass."""
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    from retain.score.plan import Request
    from retain.score.seq2seq import Seq2SeqScorer

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SHAPES["bart"], "pad_token_id": 1}, vocab_size=80, eos_token_id=2)
    model = AutoModelForSeq2SeqLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    scorer = Seq2SeqScorer(model, max_length=256, budget=256, tree=False)
    asked = [Request((5, 6, 7), tuple(range(10, 10 + n)), n) for n in (1, 4, 9)]
    assert [value for value, _ in scorer.score(asked)] == pytest.approx(
        [scorer.score([one])[0][0] for one in asked], abs=1e-3
    )
