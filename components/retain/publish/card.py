"""The model card, from facts only: no text of a training row can get into it."""

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from retain import __name__ as program
from retain.publish.config import PublishConfig
from retain.publish.lineage import Node, tree
from retain.publish.verdicts import digest_of
from retain.uris import without_secrets

# What must never stand in a card, whatever a recipe or a description says.
SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*"
    r"|(?i:(?:password|passwd|secret|token|api_key)\s*[=:]\s*)\S+|[\w.+-]+@[\w-]+\.[\w.]+"
)


def card(config: PublishConfig, verdict: Mapping[str, Any], proofs: Mapping[str, Mapping[str, Any]], recipe: Mapping[str, Any], node: Node) -> str:  # fmt: skip
    """README.md of a published model, with the YAML head that model hubs read.

    ``proofs``: "proof" and "manifest" of the merge, "compression" of compress (each empty: none); ``recipe``: the resolved recipe; ``node``: the lineage.
    """
    parts = [
        _head(config, recipe), f"# {config.name}\n", config.description, _verdict(verdict), _learned(verdict), _forgot(verdict),
        _made(recipe, **proofs), _data(config, recipe), _limits(verdict), _sources(config, verdict), f"## Lineage\n\n```\n{tree(node)}\n```",
    ]  # fmt: skip
    return SECRETS.sub("[removed]", "\n\n".join(part.strip("\n") for part in parts if part)) + "\n"


def _head(config: PublishConfig, recipe: Mapping[str, Any]) -> str:
    base = without_secrets(str(recipe.get("model", {}).get("base_model", "")))
    lines = [f"license: {_yaml(config.licence)}", "library_name: transformers", "tags: [retain, fine-tuned]"]
    return "\n".join(["---", *lines, *([f"base_model: {_yaml(base)}"] if base else []), "---"])


def _yaml(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z][\w.-]*", text) else "'" + text.replace("'", "''") + "'"


def _verdict(verdict: Mapping[str, Any]) -> str:
    macro = verdict["macro"]
    lines = [
        "## Verdict", "",
        f"**{verdict['verdict'].upper()}** at attempt {verdict['attempt']}, at an error rate of {100 * verdict['alpha']:g} %. Paired on the same items, the average over "
        f"{macro.get('benchmarks', len(verdict['benchmarks']))} general benchmarks moved by {_change(macro, 'drop_points', 2)} points"
        f" (95 % interval {_change(macro, 'high', 2)} to {_change(macro, 'low', 2)}; allowed loss {_number(macro, 'margin_points'):g}).",
    ]  # fmt: skip
    lines += [""] if verdict.get("waivers") or verdict.get("warnings") else []
    for waiver in verdict.get("waivers", []):
        lines.append(f"- Waived: {waiver['benchmark']}, by {waiver['who']} until {waiver['until']}: {waiver['why']}")
    lines += [f"- Warning: {text}" for text in verdict.get("warnings", [])]
    return "\n".join(lines)


def _number(row: Mapping[str, Any], key: str) -> float:
    return float(row.get(key, 0.0))


def _change(row: Mapping[str, Any], drop: str, digits: int) -> str:
    """A drop as a change, with its sign; nothing is +0, not -0."""
    return f"{round(-_number(row, drop), digits) + 0.0:+.{digits}f}"


def _learned(verdict: Mapping[str, Any]) -> str:
    target = verdict["target"]
    if "base" not in target:
        return "## What it learned\n\nNo target metric was measured."
    return "## What it learned\n\n" + _table([target])


def _forgot(verdict: Mapping[str, Any]) -> str:
    return "## What it forgot\n\n" + _table(verdict["benchmarks"])


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = [
        "| benchmark | metric | items | base, % | tuned, % | change, points | 95 % interval |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        lines.append(
            f"| {_cell(row['name'])} | {_cell(row.get('metric', ''))} | {row['n']} | {100 * row['base']:.1f} | {100 * row['tuned']:.1f} | {_change(row, 'drop_points', 1)} "
            f"| {_change(row, 'high', 1)} to {_change(row, 'low', 1)} |"
        )
    return "\n".join(lines)


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _made(recipe: Mapping[str, Any], proof: Mapping[str, Any], compression: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:  # fmt: skip
    train, lines = recipe.get("train", {}), ["## How it was made", ""]
    keys = ("method", "learning_rate", "num_train_epochs", "max_seq_length", "seed")
    lines += [f"- {key.replace('_', ' ')}: {_plain(train[key])}" for key in keys if key in train]
    lora = train.get("lora", {})
    lines += [f"- lora: rank {_plain(lora['r'])}, alpha {_plain(lora.get('alpha', '?'))}"] if "r" in lora and "lora" in str(train.get("method")) else []  # fmt: skip
    lines += _joined(manifest.get("made_from", manifest))
    if proof:
        lines.append(f"- adapter strength: {proof['strength']:g}{_how_strong(proof['strength'])}")
        lines.append(f"- merged and proven: {proof['changed_tensors']} tensors changed; {_compared(proof['logits'])}")
    if compression:
        lines.append(f"- compressed afterwards: {compression['method']}, {compression['bytes_before'] / 1e6:,.0f} MB to {compression['bytes'] / 1e6:,.0f} MB; {compression['drift']['kl_nats']:.2g} nats a token from the model before; the verdict is of this form")  # fmt: skip
    return "\n".join(lines) if len(lines) > 2 else ""


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else _cell(value)


def _joined(manifest: Mapping[str, Any]) -> list[str]:
    """How several adapters (or models) became one."""
    weights = [f"{entry['weight']:g}" for entry in manifest.get("adapters", [])]
    return [f"- {len(weights)} merged into one by {manifest['method']}, weights {', '.join(weights)}"] if len(weights) > 1 else []  # fmt: skip


def _how_strong(strength: float) -> str:
    if strength == 1:
        return ""
    return " (a part of the change, so that less is forgotten)" if strength < 1 else " (more than was trained)"


def _compared(logits: Mapping[str, Any]) -> str:
    if not logits["adapter_effect"]:
        return "its logits were not compared, because these changes cannot be attached to a base"
    return f"logits differ from base + adapter by {logits['rms_difference']:.2g} of their spread (allowed {logits['allowed']:.2g})"


def _data(config: PublishConfig, recipe: Mapping[str, Any]) -> str:
    lines = ["## Data and licences", ""]
    for entry in recipe.get("data", {}).get("datasets", []):
        name = entry.get("name") or without_secrets(str(entry.get("path", ""))).rpartition("/")[2]
        lines.append(f"- {_cell(name)}: {entry.get('part', 'target')}, {entry.get('split', 'train')}" + (f", `{entry['digest']}`" if entry.get("digest") else ""))  # fmt: skip
    return "\n".join([*lines, f"- licences: model {config.licence}, base {config.base_licence}, data {config.data_licence}"])  # fmt: skip


def _sources(config: PublishConfig, verdict: Mapping[str, Any]) -> str:
    which = f"{shlex.quote(config.name)} --version {verdict['candidate_digest']}"
    return (
        f"## Where these numbers come from\n\nVerdict and tables: `verdict.json` beside this card (`{digest_of(verdict)}`, policy `{verdict['policy_digest']}`); the merge: `proof.json`; "
        f"what it was made from: `lineage.json`. To fetch the files and check that they are the judged ones:\n\n```\nretain pull {which} --out model\n```"
    )  # fmt: skip


def _limits(verdict: Mapping[str, Any]) -> str:
    seen = _number(verdict["macro"], "detectable_points")
    names = ", ".join(_cell(row["name"]) for row in verdict["benchmarks"])
    first = f"Only what these benchmarks measure was checked: {names}."
    power = f" The gate could see an average drop of {seen:.2f} points; a smaller one may have passed." if seen else ""
    return f"## Limits\n\n{first}{power} Other languages, long texts and safety were not judged unless they are listed above. Made with {program}."  # fmt: skip
