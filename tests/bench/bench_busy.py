"""Training beside a busy neighbour: tokens/s of plain steps on SmolLM2's shape, by how long libgomp's threads spin.

On an idle machine, then with one process that keeps one processor busy. ``300000`` is libgomp's own number, ``0`` sleeps
at once (OMP_WAIT_POLICY=passive), the one in the middle is what retain sets. Random weights; each cell is a process of its own.

    python tests/bench/bench_busy.py [--steps 3]
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import machine

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "components"))

from retain import processors

TOKENS = 512
NEIGHBOUR = "while True: pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        sys.stdout.write(f"{rate(given.steps):.0f}")
        return
    spins = ("300000", processors.SPINS, "0")
    idle = [measured(given.steps, n) for n in spins]
    # A session of its own: the scheduler then shares the machine between the two, as between two users' programs.
    neighbour = subprocess.Popen([sys.executable, "-c", NEIGHBOUR], start_new_session=True)
    try:
        busy = [measured(given.steps, n) for n in spins]
    finally:
        neighbour.kill()
        neighbour.wait()
    rows = zip(spins, idle, busy, strict=True)
    print(machine.line("Plain training steps, bf16, tokens/s", ["torch", "transformers"]))
    print(machine.table(["GOMP_SPINCOUNT", "idle machine", "one processor busy"], [*rows]))


def measured(steps: int, spins: str) -> str:
    command = [sys.executable, __file__, "--one", "--steps", str(steps)]
    return subprocess.run(
        command, env={**os.environ, "GOMP_SPINCOUNT": spins}, capture_output=True, text=True, check=True
    ).stdout


def rate(steps: int) -> float:
    import time

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True
    )  # fmt: skip
    model = LlamaForCausalLM(config).bfloat16()
    ids = torch.randint(0, config.vocab_size, (1, TOKENS))

    def step() -> None:
        model(ids, labels=ids).loss.backward()
        model.zero_grad()

    step()
    start = time.monotonic()
    for _ in range(steps):
        step()
    return steps * TOKENS / (time.monotonic() - start)


if __name__ == "__main__":
    main()
