"""The page a person opens first: verdict, what changed, and everything it rests on."""

import os
from collections.abc import Callable
from pathlib import Path

from retain.page import page
from retain.report import data, forest, head, items, ledger, lineage, probability, repair, settings, svg, training
from retain.report.material import Material, RunFolders, read

__all__ = ["RunFolders", "write_report"]

# The order is the order on the page. A section without material is an empty text.
SECTIONS: tuple[Callable[[Material], str], ...] = (
    head.top, repair.repair, forest.forest, ledger.ledger, items.flips, probability.shifts, probability.general_text, training.training, data.data, settings.settings, lineage.lineage,
    lineage.again,
)  # fmt: skip
CSS = "".join(part.CSS for part in (svg, head, repair, forest, items, training, data, settings, lineage))


def write_report(verdict: Path, report: Path, folders: RunFolders) -> None:
    """Write ``report``, one self-contained page, from ``verdict``/ (verdict.json, evidence.json) and what else a run left.

    IntegrityError (6) for an artifact that is damaged; one that is not there is left out.
    """
    material = read(verdict, folders)
    body = "\n".join(part for section in SECTIONS if (part := section(material)))
    text = page(f"Gate: {material.verdict['verdict']}", body, summary=head.summary(material.verdict), css=CSS)
    report.parent.mkdir(parents=True, exist_ok=True)
    partial = report.with_name(f"{report.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(report)
