"""The verdict where a reviewer sees it: JUnit XML, a Markdown comment, and a CI log's annotations.

All take the content of verdict.json, also that of scores that could not be compared (``integrity``).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from retain.gate.summary import interval, points, sentence, waived
from retain.gate.verdict import Reason

MARKER = "<!-- retain-gate -->"
LEVEL = {"pass": "notice", "inconclusive": "error", "regressed": "error", "integrity": "error"}
ICON = {"pass": "✅ pass", "inconclusive": "⚠️ inconclusive", "regressed": "❌ regressed", "integrity": "❌ integrity"}


def junit(verdict: Mapping[str, Any]) -> str:
    """One test case per condition: every benchmark, the macro average, the target, what else closed the gate."""
    suite = ET.Element("testsuite", name="retain gate")
    for row in verdict.get("benchmarks", ()):
        case = _case(suite, row["name"], f"{_number(row, 'base')} -> {_number(row, 'tuned')}, {row['n']} items")
        if row["status"] == "uninformative" and not _texts(verdict, row["name"]):
            ET.SubElement(case, "skipped", message="the base is near chance: left out")
        _failures(case, verdict, _texts(verdict, row["name"]))
    named = {row["name"] for row in verdict.get("benchmarks", ())}
    if verdict.get("macro"):
        case = _case(suite, "macro average", f"drop {points(verdict['macro']['drop_points'])} points")
        _failures(case, verdict, _texts(verdict, "", "macro_margin"))
    rest = [text for code, name, text in _reasons(verdict) if name not in named and code not in {"macro_margin", "equal_digests"}]  # fmt: skip
    _failures(_case(suite, "gate", verdict["verdict"]), verdict, rest)
    cases = suite.findall("testcase")
    broken = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in broken)))
    suite.set("errors", str(sum(case.find("error") is not None for case in broken)))
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    ET.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def comment(verdict: Mapping[str, Any]) -> str:
    """A pull request's comment: verdict, reasons, table. The first line lets a bot find and replace its last one."""
    lines = [MARKER, f"### Regression gate: {ICON[verdict['verdict']]}", ""]
    lines += [f"- {_cell(text)}" for _, _, text in _reasons(verdict)] + [""]
    rows = [_table_row(row) for row in verdict.get("benchmarks", ())]
    if verdict.get("macro"):
        macro = verdict["macro"]
        rows.append(("**macro average**", "", "", points(-macro["drop_points"]), interval(macro), ""))  # fmt: skip
    if "n" in verdict.get("target", {}):
        rows.append(_table_row({**verdict["target"], "tier": "target"}))
    if rows:
        lines += ["| benchmark | base | tuned | change, points | 95 % interval | items |", "|---|--:|--:|--:|--:|--:|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        lines += ["", f"Attempt {verdict['attempt']}, alpha {verdict['alpha']:g}; this gate could see a macro drop of {verdict['macro']['detectable_points']:.2f} points. "
                  f"Candidate `{verdict['candidate_digest'][:19]}`, policy `{verdict['policy_digest'][:19]}`."]  # fmt: skip
    lines += [f"- ⚠️ {_cell(text)}" for text in _notes(verdict)]
    return "\n".join(lines) + "\n"


def annotations(verdict: Mapping[str, Any]) -> list[str]:
    """Workflow commands (``::error title=…::…``), one line each; a plain log shows them as they are."""
    level = LEVEL[verdict["verdict"]]
    found = [text for _, _, text in _reasons(verdict)] or ["the candidate may be published"]
    lines = [f"::{level} title=Regression gate {verdict['verdict']}::{_command(text)}" for text in found]
    return lines + [f"::warning title=Regression gate::{_command(text)}" for text in _notes(verdict)]


def _notes(verdict: Mapping[str, Any]) -> list[str]:
    """What a reviewer should see although it closes nothing: waivers, then warnings."""
    return [*([waived(verdict["waivers"])] if verdict.get("waivers") else []), *verdict.get("warnings", ())]


def _reasons(verdict: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(code, benchmark, sentence); an integrity verdict's reason carries its own text."""
    return [
        (r["code"], r["benchmark"], str(r["got"]) if r["code"] == "integrity" else sentence(Reason(**r)))
        for r in verdict["reasons"]
    ]


def _texts(verdict: Mapping[str, Any], name: str, only: str = "") -> list[str]:
    return [text for code, benchmark, text in _reasons(verdict) if benchmark == name and only in ("", code)]


def _case(suite: ET.Element, name: str, out: str) -> ET.Element:
    case = ET.SubElement(suite, "testcase", classname="retain.gate", name=_clean(name))
    ET.SubElement(case, "system-out").text = _clean(out)
    return case


def _failures(case: ET.Element, verdict: Mapping[str, Any], texts: Sequence[str]) -> None:
    kind = "error" if verdict["verdict"] == "integrity" else "failure"
    if texts:
        broken = ET.SubElement(case, kind, type=verdict["verdict"], message=_clean(texts[0]))
        broken.text = _clean("\n".join(texts))


def _table_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    note = "" if row.get("status", "judged") == "judged" else f" ({row['status']})"
    name = f"{_cell(row['name'])}{note}" + (f" ({row['tier']})" if row["tier"] in {"critical", "target"} else "")
    return (name, _number(row, "base"), _number(row, "tuned"), points(-row["drop_points"]), interval(row), str(row["n"]))  # fmt: skip


def _number(row: Mapping[str, Any], side: str) -> str:
    """Scores in [0, 1] in percent, others as they are."""
    within = 0 <= row["base"] <= 1 and 0 <= row["tuned"] <= 1
    return f"{100 * row[side]:.1f} %" if within else f"{row[side]:.4g}"


def _clean(text: str) -> str:
    """Text that XML 1.0 can hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", text)


def _cell(text: str) -> str:
    """Text in a table cell: no cell borders, markup, mentions or line breaks of its own."""
    text = re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;").replace("@", "@\N{ZERO WIDTH SPACE}")
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", text)


def _command(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
