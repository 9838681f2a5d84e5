"""Where the model comes from, by digest, and how to decide again without any model."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from retain.page import Html, details, esc, table
from retain.report.material import Material
from retain.report.words import clip, short, soft
from retain.uris import without_secrets

CSS = """
.chain{list-style:none;padding:0;margin:.6em 0}.chain li{position:relative;margin:0;padding:0 0 .9em 26px}.chain li::before{content:"";position:absolute;left:5px;top:.45em;width:10px;height:10px;border-radius:50%;background:var(--blue)}
.chain li::after{content:"";position:absolute;left:9px;top:1.1em;bottom:-.35em;width:2px;background:#c9d4e3}.chain li:last-child::after{display:none}.chain p{margin:0}.chain li.end::before{background:var(--ink)}
"""
Link = tuple[str, list[tuple[str, str]]]  # what it is; (name, digest) of each
SHOWN = 12


def lineage(material: Material) -> str:
    """Section: base and data → mixture → adapter → model → scores → verdict."""
    links = [link for link in _links(material) if link[1]]
    if not links:
        return ""
    rows = [_chained(kind, found) for kind, found in links]
    whole = [(kind, clip(name, 120), Html(f"<code>{esc(digest)}</code>")) for kind, found in links for name, digest in found]  # fmt: skip
    rows[-1] = rows[-1].replace("<li>", '<li class="end">', 1)
    return f'<h2>Lineage</h2><ol class="chain">{"".join(rows)}</ol>' + details("All digests in full", table(["what", "name", "digest"], whole))  # fmt: skip


def _links(material: Material) -> Iterator[Link]:
    recipe, card, verdict = material.recipe, material.history.get("adapter", {}), material.verdict
    if recipe:
        base = recipe["base"]
        yield "base model", [(_last(base["uri"]), base["digest"])]
        yield "data", [(f"{_last(s['path'])} ({s['part']}, {s['split']})", s["digest"]) for s in recipe["sources"]]
        yield "recipe", [("the settings above", recipe["digest"])]
    if material.mixture:
        yield "mixture", [(f"{material.mixture['rows']:,} rows", material.mixture["digest"])]
    if card:
        yield "adapter", [(str(card.get("method", "")), card["adapter_digest"])]
    if digest := verdict.get("candidate_digest"):
        yield "tuned model", [("what was scored, and what is published", digest)]
    sides = (("baseline", material.base), ("tuned", material.tuned))
    yield "scores", [(name, str(side[1]["items_sha256"])) for name, side in sides if side is not None]
    yield "verdict", list(_of_verdict(material))


def _of_verdict(material: Material) -> Iterator[tuple[str, str]]:
    if digest := material.evidence.get("digest"):
        yield "evidence", digest
    if digest := material.verdict.get("policy_digest"):
        yield "policy", digest
    for baseline in material.verdict.get("baselines", ()):
        yield f"against the {baseline['role']}", baseline["digest"]


def _last(uri: str) -> str:
    text = without_secrets(uri)
    return clip(PurePosixPath(text).name or text, 100)


def _chained(kind: str, found: list[tuple[str, str]]) -> str:
    lines = "".join(f"<p>{short(digest)} {soft(name)}</p>" for name, digest in found[:SHOWN])
    more = f"<p>{soft(f'and {len(found) - SHOWN} more')}</p>" if len(found) > SHOWN else ""
    return f"<li><b>{esc(kind)}</b>{lines}{more}</li>"


def again(material: Material) -> str:
    """Section: how anybody recomputes the verdict, and how the items were scored."""
    if not material.evidence:
        return ""
    lead = "The evidence file holds every paired item and the policy. Deciding again needs no model and no GPU, and costs no attempt:"
    how = _how(material.tuned[1]) if material.tuned else []
    measured = details("How the items were scored", table(["what", "value"], how)) if how else ""
    return f"<h2>Check it yourself</h2><p>{esc(lead)}</p><pre>retain gate --evidence evidence.json</pre>{measured}"


def _how(meta: Mapping[str, Any]) -> list[tuple[str, object]]:
    names = ("engine", "engine_version", "dtype", "device", "batch_budget", "attention", "max_length", "template_digest", "tokenizer_digest")  # fmt: skip
    facts = [(name.replace("_", " "), _plain(meta[name])) for name in names if name in meta]
    tasks = [(name, f"version {t.get('version')}, {t.get('num_fewshot')} shots, {t.get('metric')}") for name, t in meta.get("tasks", {}).items()]  # fmt: skip
    return [*facts, *tasks]


def _plain(value: object) -> str:
    return clip(", ".join(map(str, value)) if isinstance(value, list) else value, 90)
