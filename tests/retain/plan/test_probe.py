from retain.artifacts import write_rows
from retain.plan.probe import probe
from retain.train.config import TrainConfig


def test_a_probe_trains_a_few_steps_and_says_how_fast(tmp_path, tiny_llama):
    ids = list(range(10, 50))
    row = {"source": "s", "part": "target", "split": "train", "weight": 1.0, "input_ids": ids, "labels": ids, "n_supervised": 39}  # fmt: skip
    write_rows(tmp_path / "mixture", "retain.mixture/1", ({"id": str(i), **row} for i in range(16)))
    config = TrainConfig(batch_rows=4, num_train_epochs=100, dtype="fp32", device="cpu")
    found = probe(config, tmp_path / "mixture", tiny_llama, tmp_path / "scratch", steps=3)
    assert found.tokens_per_second > 1
    assert 0 < found.peak_bytes < 2**30
