"""Where a model comes from, by digest: data → mixture → adapter → model → verdict, as one JSON and as a tree to read."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from retain import digest
from retain.publish import verdicts
from retain.uris import without_secrets

SCHEMA = "retain.lineage/1"


@dataclass(frozen=True)
class Node:
    """kind: model, base, champion, adapter, mixture, template, data, recipe, verdict, scores, baseline, waiver. made_from: what it was computed from."""

    kind: str
    digest: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    made_from: tuple["Node", ...] = ()


def build(
    digest: str, manifest: Mapping[str, Any], verdict: Mapping[str, Any], recipe: Mapping[str, Any], evidence: str = ""
) -> Node:
    """The lineage of a gated model.

    manifest: manifest.json of merge or compress (empty: a model from elsewhere). recipe: the resolved one, with its
    ``digest``. evidence: digest of the gate's paired scores.
    """
    data = tuple(_data(entry) for entry in recipe.get("data", {}).get("datasets", []))
    base_uri = without_secrets(str(recipe.get("model", {}).get("base_model", "")))
    champions = {b["digest"] for b in verdict["baselines"] if b["role"] == "champion"}
    node = _served(_model(digest, manifest, base_uri, data), champions)
    settings = (Node("recipe", recipe["digest"]),) if recipe.get("digest") else ()
    return judged(replace(node, made_from=(*node.made_from, *settings)), verdict, evidence)


def judged(node: Node, verdict: Mapping[str, Any], evidence: str = "") -> Node:
    """The lineage of a model under this verdict, in the place of the one it had before."""
    kept = tuple(child for child in node.made_from if child.kind != "verdict")
    return replace(node, made_from=(*kept, _verdict(verdict, evidence)))


def _model(digest: str, manifest: Mapping[str, Any], base_uri: str, data: tuple[Node, ...]) -> Node:
    if not manifest or set(manifest) == {"digest"}:
        return Node("model", digest, {}, data)
    if origin := manifest.get("made_from"):
        return Node("model", digest, {"compressed": manifest["compressed"]}, (_model(origin["digest"], origin, base_uri, data),))  # fmt: skip
    base = Node("base", str(manifest.get("base_digest", "")), _facts({"from": base_uri}))
    entries = manifest.get("adapters", [])
    learned = [set(entry.get("training", {}).get("sources", [])) for entry in entries]
    adapters = tuple(_adapter(entry, _own(data, mine, learned)) for entry, mine in zip(entries, learned, strict=True))
    made = {"merged": manifest.get("method", ""), "strength": manifest.get("strength", "")}
    return Node("model", digest, _facts(made), (base, *adapters))


def _served(node: Node, champions: Collection[str]) -> Node:
    """In a retraining that starts from the model then in service, that one is what was merged into."""
    if node.kind == "base" and node.digest in champions:
        return Node("champion", node.digest)
    return replace(node, made_from=tuple(_served(child, champions) for child in node.made_from))


def _own(data: tuple[Node, ...], mine: set[str], learned: list[set[str]]) -> tuple[Node, ...]:
    """Of the run's files those that this adapter may have learned from: not what other adapters alone were shown."""
    others = set().union(*learned) - mine
    return tuple(node for node in data if node.facts.get("name", "") not in others)


def _adapter(entry: Mapping[str, Any], data: tuple[Node, ...]) -> Node:
    training = entry.get("training", {})
    facts = {"method": training.get("method", ""), "weight": entry.get("weight", ""), "settings": training.get("settings_digest", "")}  # fmt: skip
    template = tuple(Node("template", digest) for digest in [training.get("template_digest", "")] if digest)
    mixture = Node("mixture", str(training.get("mixture_digest", "")), {}, (*template, *data))
    return Node("adapter", str(entry.get("digest", "")), _facts(facts), (mixture,))


def _data(entry: Mapping[str, Any]) -> Node:
    facts = {"name": entry.get("name", ""), "from": without_secrets(str(entry.get("path", ""))), "part": entry.get("part", ""), "split": entry.get("split", "")}  # fmt: skip
    return Node("data", str(entry.get("digest", "")), _facts(facts))


def _verdict(verdict: Mapping[str, Any], evidence: str) -> Node:
    facts = {"verdict": verdict["verdict"], "policy": verdict["policy_digest"], "attempt": verdict.get("attempt", "")}
    against = tuple(Node("baseline", b["digest"], {"role": b["role"]}) for b in verdict["baselines"])
    scores = (Node("scores", evidence, {"form": "item by item, in evidence.json"}),) if evidence else ()
    waived = tuple(_waiver(w) for w in verdict.get("waivers", []) if w.get("holds", True))
    return Node("verdict", verdicts.digest_of(verdict), _facts(facts), (*scores, *against, *waived))


def _waiver(row: Mapping[str, Any]) -> Node:
    """Who let which drop pass, why and until when; the digest is that of the whole row, signature included."""
    return Node("waiver", digest.of_json(dict(row)), {name: row[name] for name in ("benchmark", "who", "until", "why")})


def _facts(values: Mapping[str, object]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items() if value != ""}


def as_dict(node: Node) -> dict[str, Any]:
    return {"schema": SCHEMA, **asdict(node)}


def from_dict(value: Mapping[str, Any]) -> Node:
    made_from = tuple(from_dict(child) for child in value.get("made_from", ()))
    return Node(value["kind"], value["digest"], dict(value["facts"]), made_from)


def tree(node: Node) -> str:
    """The lineage as lines: what, the first twelve digits of its digest, its facts; indented by descent. What two were made
    from is told once."""
    return "\n".join(_lines(node, "", "", set()))


def _lines(node: Node, before: str, below: str, told: set[tuple[str, str]]) -> Iterable[str]:
    short = node.digest.removeprefix("sha256:")[:12]
    facts = ", ".join(f"{key} {_short(value)}" for key, value in node.facts.items())
    again = bool(node.made_from) and (node.kind, node.digest) in told
    yield before + " ".join(
        part for part in (node.kind, short, f"({facts})" if facts else "", "as above" * again) if part
    )
    told.add((node.kind, node.digest))
    if again:
        return
    for i, child in enumerate(node.made_from):
        last = i == len(node.made_from) - 1
        yield from _lines(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "), told)


def _short(value: str) -> str:
    return value.removeprefix("sha256:")[:12] if value.startswith("sha256:") else value


def tags(node: Node) -> dict[str, str]:
    """Digest by kind, for MLflow tags: ``retain.base_digest``, ``retain.data_digest`` (several: joined by spaces) …"""
    found: dict[str, list[str]] = {}
    for each in _walk(node):
        if each.digest and each.digest not in found.setdefault(each.kind, []):
            found[each.kind].append(each.digest)
    return {f"retain.{kind}_digest": " ".join(digests)[:5000] for kind, digests in found.items() if kind != "model" and digests}  # fmt: skip


def waivers(node: Node) -> list[dict[str, str]]:
    """The waivers that the verdict rests on: benchmark, who, until, why."""
    return [dict(each.facts) for each in _walk(node) if each.kind == "waiver"]


def target_data(node: Node) -> list[str]:
    """Digests of the files whose task was learned and measured, each once."""
    return sorted(
        {
            each.digest
            for each in _walk(node)
            if each.kind == "data" and each.digest and each.facts.get("part") == "target"
        }
    )


def _walk(node: Node) -> Iterable[Node]:
    yield node
    for child in node.made_from:
        yield from _walk(child)
