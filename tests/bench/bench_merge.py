"""M1 and M2: the streamed merge beside peft's merge_and_unload + save_pretrained and beside a plain copy.

A 1.1 B-parameter Llama of random bf16 weights in shards of at most 500 MB, and a rank-16 adapter on all linear layers, are made in a
temporary folder (5 GB free). Each run is a process of its own, timed inside it after the imports, with the files in the
page cache and flushed to the disk at the end; the median of ``--runs`` counts. Anonymous memory is that of the process.

    python tests/bench/bench_merge.py [--runs 5] [--layers 22] [--json FILE]
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine

HIDDEN, INNER, VOCABULARY, HEADS, KEY_HEADS, RANK = 2048, 5632, 32000, 32, 4, 16
SHARD_BYTES = 500 << 20
TORCH_MIB = 350  # what M2 grants beside the tensors: torch itself and the buffers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(*given.one)
        return
    with tempfile.TemporaryDirectory(prefix="bench-merge-") as folder:
        report = compare(Path(folder), given.runs, given.layers)
    sys.stdout.write(table(report))
    if given.json:
        given.json.write_text(json.dumps(report, indent=1))


def compare(folder: Path, runs: int, layers: int) -> dict[str, Any]:
    base, adapter = folder / "base", folder / "adapter"
    parameters = make_base(base, layers)
    make_adapter(adapter, layers)
    results: dict[str, list[dict[str, float]]] = {"copy": [], "retain": [], "peft": []}
    for _ in range(runs):  # side by side, so that a busy minute is busy for all three
        for name, found in results.items():
            found.append(in_process(name, base, adapter, folder / "out"))
    middle = {name: {key: statistics.median(run[key] for run in found) for key in found[0]} for name, found in results.items()}  # fmt: skip
    largest = HIDDEN * VOCABULARY * 2
    return {
        "parameters": parameters, "runs": runs, "cpus": os.cpu_count(), "median": middle, "largest_tensor_mib": largest / 2**20,
        "m1_ratio": middle["peft"]["seconds"] / middle["retain"]["seconds"], "share_of_copy": middle["copy"]["seconds"] / middle["retain"]["seconds"],
        "m2_allowed_mib": 2 * largest / 2**20 + TORCH_MIB,
    }  # fmt: skip


def in_process(name: str, base: Path, adapter: Path, out: Path) -> dict[str, float]:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    start = time.monotonic()
    command = [sys.executable, __file__, "--one", name, str(base), str(adapter), str(out)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    return {**json.loads(done.stdout.splitlines()[-1]), "whole_process_seconds": time.monotonic() - start}


def one(name: str, base: str, adapter: str, out: str) -> None:
    work = {"copy": copy, "retain": retain, "peft": peft}[name](Path(base), Path(adapter), Path(out))
    peak = Peak()
    start, busy = time.monotonic(), time.process_time()
    work()
    os.sync()
    seconds, busy = time.monotonic() - start, time.process_time() - busy
    print(json.dumps({"seconds": seconds, "cpu_seconds": busy, "peak_anonymous_mib": peak.stop()}))


def copy(base: Path, adapter: Path, out: Path) -> Callable[[], object]:
    return lambda: shutil.copytree(base, out, dirs_exist_ok=True)


def retain(base: Path, adapter: Path, out: Path) -> Callable[[], object]:
    import torch  # noqa: F401 (imports are not timed)

    from retain.merge.config import MergeConfig
    from retain.merge.work import write

    return lambda: write(MergeConfig(), base, [(adapter, 1.0)], out, "sha256:" + "0" * 64)


def peft(base: Path, adapter: Path, out: Path) -> Callable[[], object]:
    from peft import PeftModel
    from transformers import LlamaForCausalLM

    def work() -> None:
        model = LlamaForCausalLM.from_pretrained(str(base), dtype="auto")
        merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        merged.save_pretrained(str(out), max_shard_size="500MB")

    return work


class Peak:
    """The largest anonymous memory of this process, MiB, looked at every 5 ms."""

    def __init__(self) -> None:
        self.most, self._go = 0.0, True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while self._go:
            self.most = max(self.most, anonymous_mib())
            time.sleep(0.005)

    def stop(self) -> float:
        self._go = False
        self._thread.join()
        return self.most


def anonymous_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    width = HIDDEN // HEADS * KEY_HEADS
    block = {
        "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (width, HIDDEN), "self_attn.v_proj": (width, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN), "mlp.down_proj": (HIDDEN, INNER),
        "input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,),
    }  # fmt: skip
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    found |= {f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in block.items()}
    return found | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def make_base(folder: Path, layers: int) -> int:
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    folder.mkdir()
    LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=layers, num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS, dtype="bfloat16", architectures=["LlamaForCausalLM"],
    ).save_pretrained(str(folder))  # fmt: skip
    torch.manual_seed(0)
    noise = (torch.randn((1 << 22) - 3) * 0.02).bfloat16()  # repeated: a billion fresh numbers take a minute
    shards: list[dict[str, Any]] = [{}]
    size = parameters = 0
    for name, shape in shapes(layers).items():
        tensor = noise.repeat(-(-math.prod(shape) // len(noise)))[: math.prod(shape)].view(shape).clone()
        parameters += tensor.numel()
        if size + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    place = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        place.update(dict.fromkeys(shard, file))
    index = {"metadata": {"total_size": 2 * parameters}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return parameters


def make_adapter(folder: Path, layers: int) -> None:
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    folder.mkdir()
    names = sorted({name.split(".")[-2] for name in shapes(layers) if "_proj" in name})
    LoraConfig(r=RANK, lora_alpha=32, target_modules=names, task_type="CAUSAL_LM").save_pretrained(str(folder))
    pairs = {}
    for name, shape in shapes(layers).items():
        if "_proj" in name:
            module = f"base_model.model.{name.removesuffix('.weight')}"
            pairs[f"{module}.lora_A.weight"] = torch.randn(RANK, shape[1]) * 0.02
            pairs[f"{module}.lora_B.weight"] = torch.randn(shape[0], RANK) * 0.02
    save_file(pairs, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def table(report: dict[str, Any]) -> str:
    middle = report["median"]
    what = f"Merge of {report['parameters'] / 1e9:.2f} B parameters, bf16, median of {report['runs']}"
    columns = ("seconds", "cpu_seconds", "whole_process_seconds", "peak_anonymous_mib")
    rows = [
        (name, *(f"{found[key]:.0f}" if key.endswith("mib") else f"{found[key]:.2f}" for key in columns))
        for name, found in middle.items()
    ]
    busy = middle["peft"]["cpu_seconds"] / middle["retain"]["cpu_seconds"]
    said = [
        f"M1: {report['m1_ratio']:.1f} × peft (at least 6, stretch 10), {busy:.1f} × by processor time; {100 * report['share_of_copy']:.0f} % of the copy's speed.",
        f"M2: {middle['retain']['peak_anonymous_mib']:.0f} MiB (at most {report['m2_allowed_mib']:.0f} MiB).",
    ]
    head = ["", "seconds", "of the processor", "whole process, s", "peak anonymous, MiB"]
    return "\n".join([machine.line(what, ["torch", "transformers", "peft"]), machine.table(head, rows), *said]) + "\n"


if __name__ == "__main__":
    main()
