"""A linear probe: from rows with a text and a label to a head that is loaded as it was saved; the base stays as it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from retain import artifacts, models
from retain.errors import ConfigError, DataRefused
from retain.merge.config import MergeConfig
from retain.merge.work import merge
from retain.mix.config import MixConfig
from retain.mix.work import mix
from retain.template.config import TemplateConfig
from retain.template.work import template
from retain.train import probe
from retain.train.probe_engine import macro_f1
from retain.validate.config import DatasetSpec, ValidateConfig
from retain.validate.work import validate

from .conftest import Trained, token_rows
from .families import build

SENTENCES = {"good": "the shop answers that it will come on monday number {}", "bad": "please send an invoice for parcel {}", "0": "where is the customer {}"}  # fmt: skip
ROWS = [{"text": SENTENCES[label].format(i), "label": label} for i in range(20) for label in SENTENCES]


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Callable[[str], Path]:
    """The mixture of ROWS with the labels as class indices (head) or as answers (completion)."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
            spec = DatasetSpec(path=str(folder / "rows.jsonl"))
            validate(ValidateConfig(), [spec], [folder / "rows.jsonl"], tiny_llama, folder / "dataset", folder / "rejects", folder / "report.html")  # fmt: skip
            template(TemplateConfig(classification=kind), folder / "dataset", tiny_llama, folder / "rendered", folder / "preview.html")  # fmt: skip
            mix(MixConfig(share=0), folder / "rendered", [], folder / "mixture", folder / "mix.html")
            made[kind] = folder / "mixture"
        return made[kind]

    return make


LEARN: dict[str, Any] = {"method": "probe", "max_steps": 30, "eval_steps": 15, "learning_rate": 0.1, "batch_rows": 16}


def test_a_probe_learns_the_classes_and_nothing_of_the_base_moves(trained: Trained, classes: Callable[[str], Path], tiny_llama: Path, tmp_path: Path) -> None:  # fmt: skip
    seen: list[dict[str, float]] = []
    result = trained(rows=classes("head"), log=lambda m, s: seen.append(m), **LEARN)
    assert result.base_target_validation_nats == pytest.approx(torch.log(torch.tensor(3.0)).item(), abs=1e-5)
    assert result.trainable_parameters == 3 * 32 + 3
    card = json.loads((tmp_path / "run" / "adapter" / "retain.json").read_text())
    assert card["measured"]["accuracy"] == card["measured"]["macro_f1"] == 1.0
    assert (card["kind"], card["mergeable"]) == ("probe", False)
    assert set(load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")) == {"weight", "bias"}
    assert [m["validation_accuracy"] for m in seen if "validation_accuracy" in m][-1] == 1.0
    loaded = probe.load(models.load_model(tiny_llama, dtype="fp32"), tmp_path / "run" / "adapter")
    texts = [SENTENCES[name].format(7) for name in ("bad", "0", "good")]
    assert probe.classify(loaded, models.load_tokenizer(tiny_llama), texts) == ["bad", "0", "good"]
    untouched = models.load_model(tiny_llama, dtype="fp32").state_dict()
    assert all(torch.equal(value, untouched[name]) for name, value in loaded.state_dict().items() if name.startswith("model."))  # fmt: skip


def test_padded_and_packed_probes_are_one_and_a_resumed_one_is_too(
    trained: Trained, classes: Callable[[str], Path]
) -> None:
    packed, padded = (trained(kind, rows=classes("head"), packing=kind, **LEARN) for kind in ("packed", "padded"))
    assert packed.target_validation_nats == pytest.approx(padded.target_validation_nats, abs=1e-4)

    class Power(Exception):
        pass

    def fails(metrics: dict[str, float], step: int) -> None:
        if step == 20:
            raise Power

    with pytest.raises(Power):
        trained("cut", rows=classes("head"), log=fails, **LEARN)
    again = trained("cut", rows=classes("head"), **LEARN)
    assert again.resumed_at == 15
    assert again.adapter_digest == trained("whole", rows=classes("head"), **LEARN).adapter_digest


def test_labels_as_answers_are_learnt_by_any_other_method(trained: Trained, classes: Callable[[str], Path]) -> None:
    result = trained(rows=classes("completion"))
    assert result.target_validation_nats < result.base_target_validation_nats


@pytest.mark.parametrize(("kind", "method", "fix"), [("completion", "probe", "classification: head"), ("head", "lora", "train.method probe")])  # fmt: skip
def test_rows_of_the_other_kind_are_refused(kind: str, method: str, fix: str, trained: Trained, classes: Callable[[str], Path]) -> None:  # fmt: skip
    with pytest.raises(DataRefused, match=fix):
        trained(rows=classes(kind), method=method)


def test_what_a_probe_has_no_use_for_is_refused(trained: Trained, classes: Callable[[str], Path], tmp_path: Path) -> None:  # fmt: skip
    rows = (row | ({} if row["part"] == "replay" else {"labels": [i % 2]}) for i, row in enumerate(token_rows()))
    artifacts.write_rows(tmp_path / "mix", "retain.mixture/1", rows, options={"class_names": ["even", "odd"]})
    with pytest.raises(DataRefused, match="nothing that replay rows could keep"):
        trained(rows=tmp_path / "mix", method="probe")
    for changes, reason in (({"kl": {"beta": 1}}, "nothing to hold back"), ({"anchor": {"kind": "l2_sp"}}, "nothing to hold back"), ({"objective": "dpo"}, "not preferences")):  # fmt: skip
        with pytest.raises(ConfigError, match=reason):
            trained(rows=classes("head"), method="probe", **changes)


def test_an_encoder_decoder_is_refused(trained: Trained, classes: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="last state of a causal model"):
        trained(model=build("t5", tmp_path / "t5"), rows=classes("head"), method="probe")


def test_a_probe_is_not_merged(
    trained: Trained, classes: Callable[[str], Path], tiny_llama: Path, tmp_path: Path
) -> None:
    trained(rows=classes("head"), method="probe", max_steps=1)
    with pytest.raises(ConfigError, match="a head over classes"):
        merge(MergeConfig(), tiny_llama, [(tmp_path / "run" / "adapter", 1.0)], tmp_path / "model")


def test_macro_f1_is_the_mean_of_the_classes_that_occur() -> None:
    assert macro_f1([0, 0, 1, 2], [0, 1, 1, 1]) == pytest.approx((2 / 3 + 2 / 4) / 2)


def test_a_plain_mixture_of_that_length_is_no_probe_row(trained: Trained, tmp_path: Path) -> None:
    artifacts.write_rows(tmp_path / "mix", "retain.mixture/1", (row | {"part": "target"} for row in token_rows()))
    with pytest.raises(DataRefused, match="learns from classes"):
        trained(rows=tmp_path / "mix", method="probe")
