"""The look of every page: one self-contained HTML file, light, readable at 300 px, alive in a sandboxed frame.

The KFP UI shows a page in ``<iframe sandbox="allow-scripts" srcdoc>``: nothing is loaded from outside, no links to
anchors (they blank the frame), no scripts needed; ``<details>`` opens and closes. Charts are SVG with a viewBox.
All text from data goes through :func:`esc`.
"""

from collections.abc import Iterable, Sequence
from html import escape

CSS = """
:root{--ink:#1b2330;--soft:#5b6675;--line:#dfe4ea;--wash:#f5f7f9;--good:#1a7f4b;--bad:#b3261e;--warn:#8a5a00;--blue:#1f5fbf}
*{box-sizing:border-box}html{color-scheme:light;-webkit-text-size-adjust:100%}
body{margin:0;background:#fff;color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main{max-width:1040px;margin:0 auto;padding:20px 16px 48px}h1{font-size:1.45rem;line-height:1.25;margin:.2em 0;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.2em 0 .5em}h3{font-size:1rem;margin:1.5em 0 .4em}
p,ul{margin:.5em 0}ul{padding-left:1.25em}li{margin:.15em 0}.soft{color:var(--soft)}.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
.banner{border-left:6px solid var(--soft);background:var(--wash);padding:12px 16px;border-radius:4px;margin:12px 0;overflow-wrap:anywhere}
.banner.good{border-color:var(--good);background:#eef7f1}.banner.bad{border-color:var(--bad);background:#fdf0ef}.banner.warn{border-color:#c98a00;background:#fff7e5}.banner.good,.banner.bad,.banner.warn{color:var(--ink)}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.92em}th,td{text-align:left;padding:5px 10px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);white-space:nowrap}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code,pre{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--wash);padding:10px;border-radius:4px;margin:.4em 0}
code{overflow-wrap:anywhere}mark{background:#cdeedb;color:inherit;border-radius:2px}details{border-bottom:1px solid var(--line);padding:7px 0}summary{cursor:pointer}
summary:focus-visible{outline:2px solid var(--blue);outline-offset:2px}svg{max-width:100%;height:auto;display:block}
@media (max-width:480px){main{padding:12px 12px 32px}h1{font-size:1.25rem}.banner{padding:9px 12px}}
@media print{details>*{display:block}h2,summary{break-after:avoid}}
"""


class Html(str):
    """Markup that is already safe: what a table or list takes as it is, instead of escaping it."""

    __slots__ = ()


def esc(text: object) -> str:
    """Text as HTML text, quotes included; control characters and half surrogate pairs become visible."""
    shown = "".join(c if c in "\n\t" or 32 <= ord(c) < 127 or ord(c) > 159 else "\N{SYMBOL FOR DELETE}" for c in str(text))  # fmt: skip
    return escape(shown.encode("utf-8", "replace").decode("utf-8"), quote=True)


def markup(value: object) -> str:
    """A value inside a page: :class:`Html` as it is, everything else escaped."""
    return str(value) if isinstance(value, Html) else esc(value)


def page(title: str, body: str, *, summary: str = "", css: str = "") -> str:
    """A whole page; ``summary`` (a verdict, a count) stands in a comment right behind the doctype, where lists show it.

    ``css``: rules of this page alone, after the common ones.
    """
    comment = f"<!-- {esc(summary).replace('--', '- -')} -->\n" if summary else ""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{esc(title)}</title><style>{CSS}{css}</style>'
    return f'<!doctype html>\n{comment}<html lang="en"><head>{head}</head><body><main>\n{body}\n</main></body></html>\n'


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, numeric: Sequence[int] = ()) -> str:
    """A table in its own scroll box; cells are escaped unless they are Html; ``numeric`` columns are right-aligned."""

    def cells(tag: str, row: Sequence[object]) -> str:
        return "".join(f"<{tag}{' class=n' if i in numeric else ''}>{markup(cell)}</{tag}>" for i, cell in enumerate(row))  # fmt: skip

    lines = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells("th", head)}</tr></thead><tbody>{lines}</tbody></table></div>'


def listed(lines: Iterable[object]) -> str:
    """A bulleted list, or nothing at all."""
    items = "".join(f"<li>{markup(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def details(summary: object, body: str, *, opened: bool = False) -> str:
    """A part that opens at a click, without a script; ``body`` is markup."""
    return f"<details{' open' if opened else ''}><summary>{markup(summary)}</summary>{body}</details>"


def banner(kind: str, title: str, text: object = "") -> str:
    """The sentence a reader must not miss; ``kind``: good, bad, warn."""
    more = f"<div>{text}</div>" if isinstance(text, Html) else f"<p>{esc(text)}</p>" if text else ""
    return f'<div class="banner {kind}"><h1 class="{kind}">{esc(title)}</h1>{more}</div>'
