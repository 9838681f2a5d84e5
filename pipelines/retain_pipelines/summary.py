"""What stands on the terminal when a run has ended: table, verdict, version, where to look."""

from typing import Any

from retain.gate.summary import interval, points, sentence
from retain.gate.verdict import Reason
from retain.report.repair import shares
from retain.tracking import tracking_uri
from retain_pipelines.runs import Outcome

WORDS = {
    "pass": "PASS",
    "regressed": "BLOCKED: regressed",
    "inconclusive": "BLOCKED: inconclusive",
    "integrity": "BLOCKED: scores do not match",
}


def summary(outcome: Outcome) -> str:
    verdict = outcome.verdict
    lines = ["", *(_table(verdict) if verdict.get("benchmarks") else []), *_ending(outcome)]
    if version := outcome.published.get("version"):
        lines.append(
            f"registered  {outcome.published['name']} version {version} (alias {', '.join(outcome.published['aliases'])})"
        )
    if outcome.report:
        lines.append(f"report      {outcome.report}")
    lines += [f"run         {outcome.folder}", f"MLflow UI   mlflow ui --backend-store-uri {tracking_uri()}"]
    return "\n".join(lines)


def _table(verdict: dict[str, Any]) -> list[str]:
    rows = [_row(row) for row in verdict["benchmarks"]]
    macro = verdict["macro"]
    rows.append(
        (
            "macro average",
            "",
            "",
            points(-macro["drop_points"]),
            interval(macro),
            f"margin {-macro['margin_points']:g}",
        )
    )
    if "n" in verdict["target"]:
        rows.append(_row(verdict["target"]))
    head = ("benchmark", "base", "tuned", "change", "95 % interval", "items")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, *rows]
    ]


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    """Scores in percent, the change and its interval in points (up is better)."""
    scores = [f"{100 * row['base']:.1f}", f"{100 * row['tuned']:.1f}"]
    return (
        row["name"],
        *scores,
        points(-row["drop_points"]),
        interval(row),
        str(row["n"]),
    )


def _ending(outcome: Outcome) -> list[str]:
    verdict = outcome.verdict
    if not verdict:
        return [f"FAILED (exit {outcome.exit_code})", outcome.message, ""]
    lines = [
        "",
        *_repaired(outcome.repair, verdict),
        f"verdict     {WORDS[verdict['verdict']]} (exit {outcome.exit_code})",
    ]
    if verdict["verdict"] == "integrity":
        return [*lines, outcome.message]
    lines += [f"  - {sentence(Reason(**reason))}" for reason in verdict["reasons"]]
    lines += [f"  ! {warning}" for warning in verdict["warnings"]]
    unfinished = outcome.exit_code not in (0, verdict["exit_code"])
    return [*lines, *([outcome.message] if unfinished else []), ""]


def _repaired(told: dict[str, Any], verdict: dict[str, Any]) -> list[str]:
    """What a repair came to, where the gate was closed at first."""
    if not told:
        return []
    if one := told["chosen"]:
        made = f"repaired    {one['method']} at strength {one['strength']:g}, chosen on {sum(told['items']['dev'].values())} items set apart"
        return [made, f"            {shares(told, verdict)}".rstrip()]
    changes = [f"  --set {change['key']}={change['then']}" for change in told["changes"]]
    return ["not repaired: nothing that was tried is likely to pass; the next training:", *changes]
