"""The vocabulary of a GGUF file: tokens, merges, special ids and chat template, from the model's tokenizer.json.

Only byte-level BPE is written; the rule that splits a text before BPE has a name in llama.cpp, and a wrong one would give
other tokens without a word, so an unknown rule is refused.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retain.errors import ConfigError

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Steps of tokenizer.json's pre_tokenizer → tokenizer.ggml.pre.
RULES = {
    ("bytes by words",): "gpt-2",
    ("single digits", "bytes by words"): "smollm",
    (_WORDS % r"\p{N}{1,3}", "bytes"): "llama-bpe",
    (_WORDS % r"\p{N}", "bytes"): "qwen2",
}


def write(gguf: Any, writer: Any, model_dir: Path, size: int, rule: str) -> None:
    """Put the vocabulary of ``size`` tokens (rows of the embedding) into ``writer``; ``rule``: its name, empty: found."""
    path = model_dir / "tokenizer.json"
    if not path.is_file():
        raise ConfigError("a GGUF file carries its vocabulary, and this model has no tokenizer.json", where=str(model_dir), fix="save the tokenizer beside the model")  # fmt: skip
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    if tokenizer["model"]["type"] != "BPE" or (tokenizer.get("decoder") or {}).get("type") != "ByteLevel":
        raise ConfigError("only byte-level BPE vocabularies are written as GGUF here", where=str(path), got=tokenizer["model"]["type"], fix="use int8 or nf4, or llama.cpp's own converter")  # fmt: skip
    tokens, types = _tokens(gguf, tokenizer, size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule or split_rule(tokenizer, path))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    gguf.SpecialVocab(model_dir, load_merges=True, n_vocab=size).add_to_gguf(writer, quiet=True)


def split_rule(tokenizer: dict[str, Any], path: Path) -> str:
    """llama.cpp's name of the rule by which a text is split before BPE."""
    steps = tuple(_steps(tokenizer.get("pre_tokenizer") or {}))
    if steps not in RULES:
        raise ConfigError("this vocabulary's splitting rule has no known name in llama.cpp", where=str(path), got="; ".join(steps)[:200], fix="give its name as compress.gguf_vocabulary")  # fmt: skip
    return RULES[steps]


def _steps(rule: dict[str, Any]) -> Iterator[str]:
    kind = rule.get("type", "none")
    if kind == "Sequence":
        for part in rule["pretokenizers"]:
            yield from _steps(part)
    elif kind == "Split":
        yield rule["pattern"].get("Regex", "")
    elif kind == "ByteLevel":
        yield "bytes by words" if rule.get("use_regex", True) else "bytes"
    elif kind == "Digits":
        yield "single digits" if rule.get("individual_digits") else "digits"
    else:
        yield kind


def _tokens(gguf: Any, tokenizer: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Every row of the embedding has a token; rows without one are named as unused."""
    kinds = gguf.TokenType
    tokens, types = [f"[PAD{i}]" for i in range(size)], [int(kinds.UNUSED)] * size
    for text, number in tokenizer["model"]["vocab"].items():
        tokens[number], types[number] = text, int(kinds.NORMAL)
    for entry in tokenizer.get("added_tokens", []):
        if entry["id"] < size:
            tokens[entry["id"]] = entry["content"]
            types[entry["id"]] = int(kinds.CONTROL if entry.get("special") else kinds.USER_DEFINED)
    return tokens, types
