"""A world so small that a 2-layer model knows it: things and their colours and sizes, and a task to learn on top.

The base is trained here in seconds until it knows most of its world, so benchmarks have something to lose: a careful
recipe keeps it, a reckless one does not. Everything else is the product itself.
"""

import functools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

COLOURS, SIZES = ("red", "blue", "green", "gold"), ("tiny", "small", "large", "huge")
THINGS = [f"thing{i}" for i in range(160)]
ANSWERS = ("open", "shut", "wait")
KEYS = {f"key{i}": ANSWERS[i % 3] for i in range(24)}  # what the base learned before is one off: the house rule changed
FILLERS = [f"word{i}" for i in range(60)]
FACTS = {
    "colours": dict(zip(THINGS, [COLOURS[(7 * i + i // 5) % 4] for i in range(160)], strict=True)),
    "sizes": dict(zip(THINGS, [SIZES[(5 * i + i // 7) % 4] for i in range(160)], strict=True)),
}
VERB = {"colours": "looks", "sizes": "measures"}
TEMPLATE = "{% for m in messages %}<|im_start|> {{ m['role'] }} {{ m['content'] }} <|im_end|> {% endfor %}{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"


def tokenizer() -> Any:
    """One token a word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|unk|>",
        "system",
        "user",
        "assistant",
        *VERB.values(),
        *COLOURS,
        *SIZES,
        *THINGS,
        *KEYS,
        *ANSWERS,
        *FILLERS,
    ]
    level = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unk|>"))
    level.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    level.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    made = PreTrainedTokenizerFast(
        tokenizer_object=level,
        eos_token="<|im_end|>",
        bos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<|unk|>",
        additional_special_tokens=["<|im_start|>"],
    )
    made.chat_template, made.model_max_length = TEMPLATE, 64
    return made


def build_base(folder: Path) -> Path:
    """The trained base as a model folder."""
    _trained().save_pretrained(str(folder))
    tokenizer().save_pretrained(str(folder))
    return folder


@functools.cache
def _trained() -> Any:
    """A 2-layer Llama that has read its world and its old house rule until it knows nearly all of both; once a process."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    rng, words = random.Random(1), tokenizer()
    shape = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 64,
    }
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), pad_token_id=0, bos_token_id=0, eos_token_id=2, tie_word_embeddings=False, **shape
        )
    )
    facts = _ids(
        words, [f"{thing} {VERB[kind]} {value}" for kind, known in FACTS.items() for thing, value in known.items()]
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(400):
        chats = _ids(words, [_old_rule(rng) for _ in range(96)])
        one, two = _loss(model, facts, 1), _loss(model, chats, 3)
        optimizer.zero_grad()
        (one + two).backward()
        optimizer.step()
        if one.item() < 0.1 and two.item() < 0.1:
            break
    return model


def _ids(words: Any, texts: list[str]) -> Any:
    import torch

    return torch.tensor(words(texts, add_special_tokens=False)["input_ids"])


def _loss(model: Any, ids: Any, last: int) -> Any:
    """Mean cross-entropy of the last tokens of rows of one length."""
    import torch

    logits = model(ids).logits[:, -last - 1 : -1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -last:].flatten())


def _old_rule(rng: random.Random) -> str:
    key = rng.choice(list(KEYS))
    words = rng.sample(FILLERS, 6)
    words[rng.randrange(6)] = key
    answer = ANSWERS[(ANSWERS.index(KEYS[key]) + 1) % 3]
    return f"<|im_start|> user {' '.join(words)} <|im_end|> <|im_start|> assistant {answer} <|im_end|>"


def build_tasks(folder: Path) -> None:
    """Two lm-eval tasks on what the base knows."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, facts in FACTS.items():
        choices = list(COLOURS if kind == "colours" else SIZES)
        rows = [
            {"query": f"{thing} {VERB[kind]}", "choices": choices, "gold": choices.index(value)}
            for thing, value in facts.items()
        ]
        _jsonl(folder / f"{kind}.jsonl", rows)
        (folder / f"{kind}.yaml").write_text(
            f"task: {kind}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / f'{kind}.jsonl'}}}}}\ntest_split: test\noutput_type: multiple_choice\n"
            'doc_to_text: "{{query}}"\ndoc_to_choice: choices\ndoc_to_target: gold\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\nmetadata: {version: 1}\n'
        )


def build_rows(folder: Path) -> None:
    """train.jsonl (two of them broken), test.jsonl and general.jsonl."""
    rng = random.Random(0)
    train, test = (
        [_chat(rng, key) for key in KEYS for _ in range(16)],
        [_chat(rng, key) for key in KEYS for _ in range(9)],
    )
    rng.shuffle(train)
    train[6] = {"messages": train[6]["messages"][:1]}
    _jsonl(folder / "train.jsonl", train)
    with (folder / "train.jsonl").open("a") as stream:
        stream.write("{not json\n")
    _jsonl(folder / "test.jsonl", test)
    _jsonl(
        folder / "general.jsonl",
        [
            {
                "messages": [
                    {"role": "user", "content": " ".join(rng.sample(FILLERS, 5))},
                    {"role": "assistant", "content": " ".join(rng.sample(FILLERS, 4))},
                ]
            }
            for _ in range(80)
        ],
    )


def _chat(rng: random.Random, key: str) -> dict[str, Any]:
    words = rng.sample(FILLERS, 6)
    words[rng.randrange(6)] = key
    return {"messages": [{"role": "user", "content": " ".join(words)}, {"role": "assistant", "content": KEYS[key]}]}


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


CAREFUL = {
    "method": "lora",
    "learning_rate": 4e-4,
    "num_train_epochs": 6,
    "lora": {"r": 8, "target_modules": "mlp-only"},
}
# Too fast as well, but not beyond repair: half of this change keeps the task and most of the world.
HASTY = {"method": "full", "learning_rate": 5e-4, "num_train_epochs": 6}
RECKLESS = {"method": "full", "learning_rate": 2e-2, "num_train_epochs": 6}


def write_recipe(folder: Path, name: str, train: dict[str, Any], replay: float, **gate: Any) -> Path:
    import yaml

    recipe = {
        "model": {"base_model": "base"},
        "data": {
            "datasets": [
                {"path": "train.jsonl", "name": "keys", "validation_share": 0.1},
                {"path": "test.jsonl", "name": "keys-test", "split": "test"},
                {"path": "general.jsonl", "name": "general", "part": "replay", "validation_share": 0.2},
            ],
            "replay": {"share": replay},
        },
        "train": {
            **train,
            "batch_rows": 16,
            "dtype": "fp32",
            "early_stopping": {"patience": 0, "max_retention_rise_nats": 0},
        },
        "score": {
            "tasks": [{"name": "colours"}, {"name": "sizes"}],
            "include_path": [str(folder / "tasks")],
            "target": {"max_new_tokens": 3},
            "dtype": "fp32",
        },
        "gate": {"macro_margin_points": 6.0, **gate},
        "publish": {"name": f"small-world-{name}"},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def build(folder: Path) -> Path:
    """Everything under ``folder``: base, tasks, rows, and the recipes careful.yaml, hasty.yaml and reckless.yaml."""
    build_base(folder / "base")
    build_tasks(folder / "tasks")
    build_rows(folder)
    write_recipe(folder, "careful", CAREFUL, replay=0.05)
    write_recipe(folder, "hasty", HASTY, replay=0.0, on_fail="repair", defaults={"max_drop": 6.0})
    write_recipe(folder, "reckless", RECKLESS, replay=0.0)
    return folder


def halves(world: Path) -> Path:
    """The careful recipe with its keys in two domains, one file each."""
    import yaml

    recipe = yaml.safe_load((world / "careful.yaml").read_text())
    sets, north = [], set(list(KEYS)[:12])
    for split, file in (("train", "train.jsonl"), ("test", "test.jsonl")):
        lines = [line for line in (world / file).read_text().splitlines() if line.endswith("}]}")]
        for name in ("north", "south"):
            mine = [line for line in lines if bool(north & set(line.replace('"', " ").split())) == (name == "north")]
            (world / f"{name}-{file}").write_text("\n".join(mine) + "\n")
            sets.append({"path": f"{name}-{file}", "name": name, "split": split})
    general = {"path": "general.jsonl", "name": "general", "part": "replay", "validation_share": 0.2}
    recipe["data"] = {**recipe["data"], "datasets": [*sets, general]}
    recipe["train"] = {**recipe["train"], **CAREFUL, "num_train_epochs": 10}
    recipe["merge"] = {"method": "linear"}
    recipe["publish"] = {"name": "two-domains"}
    (world / "domains.yaml").write_text(yaml.safe_dump(recipe))
    return world


def environment(world: Path) -> dict[str, str]:
    """Of a command in this world: a home of its own, one thread."""
    return {
        **os.environ,
        "RETAIN_HOME": str(world / "home"),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "OMP_NUM_THREADS": "1",
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "retain_pipelines.cli", *arguments]


def retain(world: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment(world), cwd=world, capture_output=True, text=True, check=False
    )


def outcome(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What `--json` printed."""
    assert done.stdout.strip(), done.stderr[-3000:]
    return json.loads(done.stdout)
