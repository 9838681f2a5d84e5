import json
import subprocess
import sys

from retain.artifacts import write_rows
from retain.train.config import TrainConfig

# In a process of its own, as the verb does it: one that trained before holds freed memory that a probe would use again.
IN_ITS_OWN_PROCESS = """
import dataclasses, json, sys
from pathlib import Path
from retain.plan.probe import probe
from retain.train.config import TrainConfig
found = probe(TrainConfig.model_validate_json(sys.argv[1]), *map(Path, sys.argv[2:]), steps=3)
print(json.dumps(dataclasses.asdict(found)))
"""


def test_a_probe_trains_a_few_steps_and_says_how_fast(tmp_path, tiny_llama):
    ids = list(range(10, 50))
    row = {"source": "s", "part": "target", "split": "train", "weight": 1.0, "input_ids": ids, "labels": ids, "n_supervised": 39}  # fmt: skip
    write_rows(tmp_path / "mixture", "retain.mixture/1", ({"id": str(i), **row} for i in range(16)))
    config = TrainConfig(batch_rows=4, num_train_epochs=100, dtype="fp32", device="cpu")
    folders = [str(folder) for folder in (tmp_path / "mixture", tiny_llama, tmp_path / "scratch")]
    command = [sys.executable, "-c", IN_ITS_OWN_PROCESS, config.model_dump_json(), *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["tokens_per_second"] > 1
    assert 0 < found["peak_bytes"] < 2**30
