"""The common look: escaping, tables, and what a sandboxed frame needs."""

from retain.page import Html, banner, details, esc, listed, page, table


def test_text_from_data_is_escaped_and_made_visible() -> None:
    assert esc("<b a=\"x\" b='y'>&") == "&lt;b a=&quot;x&quot; b=&#x27;y&#x27;&gt;&amp;"
    assert esc("a\x00b\x85c\nd\te") == "a\N{SYMBOL FOR DELETE}b\N{SYMBOL FOR DELETE}c\nd\te"
    assert esc("half \ud800 pair").encode() == b"half ? pair"


def test_only_markup_passes_unescaped() -> None:
    shown = table(["<h>"], [["<i>", Html("<b>safe</b>")]], numeric=(1,))
    assert "<th>&lt;h&gt;</th>" in shown
    assert "<td>&lt;i&gt;</td><td class=n><b>safe</b></td>" in shown
    assert listed(["<i>", Html("<b>x</b>")]) == "<ul><li>&lt;i&gt;</li><li><b>x</b></li></ul>"
    assert listed([]) == ""
    assert banner("good", "<i>", "<i>").count("&lt;i&gt;") == 2
    assert "<ul></ul>" in banner("good", "x", Html("<ul></ul>"))
    assert details("<i>", "<p>x</p>", opened=True) == "<details open><summary>&lt;i&gt;</summary><p>x</p></details>"


def test_the_summary_stands_behind_the_doctype_and_cannot_leave_its_comment() -> None:
    text = page("t", "<p>x</p>", summary="pass --> <script>", css=".mine{}")
    assert text.startswith("<!doctype html>\n<!-- pass - -&gt; &lt;script&gt; -->\n<html")
    assert text.count("-->") == 1
    assert ".mine{}</style>" in text
    assert not any(mark in text for mark in ("http://", "https://", 'href="#', "<script", "url("))
