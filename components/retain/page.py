"""The look of every page: one self-contained HTML file, light, readable at 300 px, alive in a sandboxed frame.

The KFP UI shows a page in ``<iframe sandbox="allow-scripts" srcdoc>``: nothing is loaded from outside, no links to
anchors (they blank the frame), no scripts needed; ``<details>`` opens and closes. Charts are SVG with a viewBox.
All text from data goes through :func:`esc`.
"""

from collections.abc import Iterable, Sequence
from html import escape

CSS = """
:root{--ink:#1b2330;--soft:#5b6675;--line:#dfe4ea;--wash:#f5f7f9;--good:#1a7f4b;--bad:#b3261e;--warn:#9a6700;--blue:#1f5fbf}
*{box-sizing:border-box}body{margin:0;background:#fff;color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1040px;margin:0 auto;padding:20px 16px 48px}h1{font-size:1.5rem;line-height:1.25;margin:.2em 0}h2{font-size:1.12rem;margin:2em 0 .5em}
p{margin:.5em 0}.soft{color:var(--soft)}.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
.banner{border-left:6px solid var(--soft);background:var(--wash);padding:12px 16px;border-radius:4px;margin:12px 0}
.banner.good{border-color:var(--good)}.banner.bad{border-color:var(--bad)}.banner.warn{border-color:var(--warn)}.banner h1{color:inherit}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.92em}th,td{text-align:left;padding:5px 10px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);white-space:nowrap}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code,pre{font:12.5px/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--wash);padding:10px;border-radius:4px;margin:.4em 0}
code{overflow-wrap:anywhere}mark{background:#cdeedb;color:inherit;border-radius:2px}details{border-bottom:1px solid var(--line);padding:6px 0}summary{cursor:pointer}
svg{max-width:100%;height:auto;display:block}
"""


def esc(text: object) -> str:
    """Text as HTML text, quotes included; control characters become visible."""
    return escape("".join(c if c in "\n\t" or ord(c) >= 32 else "\N{SYMBOL FOR DELETE}" for c in str(text)), quote=True)


def page(title: str, body: str, *, summary: str = "") -> str:
    """A whole page; ``summary`` (a verdict, a count) stands in a comment right behind the doctype, where lists show it."""
    comment = f"<!-- {esc(summary).replace('--', '- -')} -->\n" if summary else ""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{esc(title)}</title><style>{CSS}</style>'
    return f'<!doctype html>\n{comment}<html lang="en"><head>{head}</head><body><main>\n{body}\n</main></body></html>\n'


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, numeric: Sequence[int] = ()) -> str:
    """A table in its own scroll box; cells are escaped; ``numeric`` columns are right-aligned."""

    def cells(tag: str, row: Sequence[object]) -> str:
        return "".join(f"<{tag}{' class=n' if i in numeric else ''}>{esc(cell)}</{tag}>" for i, cell in enumerate(row))

    lines = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells("th", head)}</tr></thead><tbody>{lines}</tbody></table></div>'


def banner(kind: str, title: str, text: str = "") -> str:
    """The sentence a reader must not miss; ``kind``: good, bad, warn."""
    return (
        f'<div class="banner {kind}"><h1 class="{kind}">{esc(title)}</h1>{f"<p>{esc(text)}</p>" if text else ""}</div>'
    )
