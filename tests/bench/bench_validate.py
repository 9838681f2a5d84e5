"""D3: validation at rising numbers of rows: time must rise in proportion, memory by the hashes of the rows only.

    python tests/bench/bench_validate.py [rows …]      default: 25000 50000 100000

Each size runs in a process of its own. Rows are chats of about 110 tokens; the base is a tokenizer trained on the spot,
or the one in BENCH_MODEL. Time is CPU time, so that a busy machine counts less.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIZES = (25_000, 50_000, 100_000)


def write_rows(path: Path, count: int) -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(4000)]
    with path.open("w", encoding="utf-8") as stream:
        for i in range(count):
            turns = [
                ("user", " ".join(rng.choices(words, k=30)) + f" {i}?"),
                ("assistant", " ".join(rng.choices(words, k=60)) + "."),
            ]
            stream.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")


def one(count: int, folder: Path, base: Path) -> None:
    """Validate ``count`` rows and print what it took beyond imports as JSON."""
    from retain.validate.config import DatasetSpec, ValidateConfig
    from retain.validate.work import validate

    def run(path: Path) -> int:
        return validate(
            ValidateConfig(min_rows=0),
            [DatasetSpec(path=str(path))],
            [path],
            base,
            folder / "dataset",
            folder / "rejects",
            folder / "report.html",
        ).rows

    warm, rows = folder / "warm.jsonl", folder / "rows.jsonl"
    write_rows(warm, 100)
    write_rows(rows, count)
    run(warm)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    kept = run(rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "rows": kept,
                "cpu_seconds": time.process_time() - start,
                "peak_mb": peak / 1024,
                "over_imports_mb": (peak - before) / 1024,
            }
        )
    )


def tiny_base(folder: Path) -> Path:
    sys.path.insert(0, str(ROOT / "tests"))
    from conftest import build_tokenizer

    build_tokenizer().save_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 8192}))
    return folder


def main(sizes: list[int]) -> None:
    print(f"{'rows':>9} {'CPU s':>7} {'µs/row':>7} {'peak MB':>8} {'over imports MB':>16}")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            base = (
                Path(os.environ["BENCH_MODEL"]) if os.environ.get("BENCH_MODEL") else tiny_base(Path(folder) / "base")
            )
            command = [sys.executable, __file__, "--one", str(size), folder, str(base)]
            env = {
                **os.environ,
                "PYTHONPATH": str(ROOT / "components"),
                "TOKENIZERS_PARALLELISM": "false",
                "OMP_NUM_THREADS": "1",
            }
            done = subprocess.run(
                command, env=env, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            got = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{got['rows']:>9,} {got['cpu_seconds']:>7.1f} {1e6 * got['cpu_seconds'] / got['rows']:>7.0f} {got['peak_mb']:>8.0f} {got['over_imports_mb']:>16.0f}",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main([int(size) for size in sys.argv[1:]] or list(SIZES))
