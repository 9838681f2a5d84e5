"""The page in a real browser, inside the frame of the KFP UI: sandboxed, by srcdoc, 600 pixels high, narrow."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-features=IsolateSandboxedIframes", "--virtual-time-budget=3000", "--window-size=1200,700", "--dump-dom",
]  # fmt: skip
# Runs inside the frame after the page, and tells the parent what a reader would see.
PROBE = """<script>addEventListener('load',()=>setTimeout(()=>{const h=document.querySelector('.banner h1'),r=h.getBoundingClientRect();
parent.postMessage({title:h.innerText,bottom:r.bottom,tiles:document.querySelector('.tiles').getBoundingClientRect().bottom,wide:document.documentElement.scrollWidth,
charts:[...document.querySelectorAll('svg')].filter(s=>s.getBoundingClientRect().width>100).length,requests:performance.getEntriesByType('resource').map(e=>e.name)},'*')},100))</script>"""
LISTENER = "<script>addEventListener('message',e=>{document.getElementById('seen').textContent=JSON.stringify(e.data)})</script><pre id=seen></pre>"

pytestmark = pytest.mark.skipif(
    BROWSER is None,
    reason="no chromium here: the report was not looked at in a browser (Debian: apt-get install chromium)",
)


def look(page: str, width: int, folder: Path) -> dict[str, Any]:
    """What is seen of ``page`` in a sandboxed frame of width × 600 pixels."""
    assert BROWSER
    inside = page.replace("</body>", PROBE + "</body>")
    frame = f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(inside)}" style="width:{width}px;height:600px;border:0"></iframe>'
    (folder / "frame.html").write_text(f"<!doctype html><body>{LISTENER}{frame}</body>", encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", (folder / "frame.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="seen">(.*?)</pre>', dom)
    assert found, dom[:500]
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


@pytest.mark.parametrize("width", [430, 300])
def test_the_verdict_is_seen_at_once_and_nothing_is_fetched(
    whole: Callable[..., Any], harmed: Any, tmp_path: Path, width: int
) -> None:
    seen = look(whole(harmed).page(), width, tmp_path)
    assert seen["title"] == "Closed: it lost what the base could do"
    assert seen["requests"] == []
    assert seen["bottom"] < 200
    assert seen["tiles"] < 600 or width == 300
    assert seen["wide"] <= width
    assert seen["charts"] >= 8


def test_the_probe_would_see_a_request(decided: Callable[..., Any], tmp_path: Path) -> None:
    page = decided().page().replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>')
    assert look(page, 430, tmp_path)["requests"] == ["http://127.0.0.1:9/x.png"]
