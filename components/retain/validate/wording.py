"""Checks of the text itself: damaged encodings, control characters, answers that break off or refuse."""

import re

from retain.refusal import refuses
from retain.validate.config import ValidateConfig
from retain.validate.sample import Sample

# C0 without tab, line feed, form feed and (normalised) carriage return; DEL; C1 without U+0085, which real text holds.
CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\x80-\x84\x86-\x9f]")
LONG_ANSWER = 200  # characters from which an answer without an end looks cut; short answers often have no full stop
OPEN_END = re.compile(r"(?:[a-z]{2},?|[,;(\[{–—-])\Z")


def check(sample: Sample, config: ValidateConfig, *, refusals: bool = True) -> None:
    """Note what is wrong with the text of one sample."""
    text = sample.text
    if config.encoding != "off":
        _encoding(sample, text)
    if config.control_characters != "off" and not text.isprintable() and (found := CONTROL.findall(text)):
        sample.note("control_characters", f"{len(found)}, the first is U+{ord(found[0]):04X}", len(found))
    if sample.shape in ("text", "classification"):
        return
    for answer in sample.answers:
        if config.truncated_answer != "off" and (why := _cut(answer)):
            sample.note("truncated_answer", why)
        if refusals and config.refusal != "off" and refuses(answer):
            sample.note("refusal", f"begins with '{answer.strip()[:40]}'")


def _encoding(sample: Sample, text: str) -> None:
    if text.isascii():
        return
    if lost := text.count("\ufffd"):
        sample.note("encoding", f"{lost} replacement characters (U+FFFD): letters were lost", lost)
        return
    from ftfy.badness import badness

    if bad := badness(text.replace("\x85", " ")):  # U+0085 stands in real text, and alone is no sign
        sample.note("encoding", f"{bad} spots that look like a wrong decoding (mojibake)", bad)


def _cut(answer: str) -> str:
    end = answer.rstrip()
    if end.count("```") % 2:
        return "a code block is not closed"
    if len(end) >= LONG_ANSWER and OPEN_END.search(end) and "```" not in end:
        return f"ends with '…{end[-20:]}'"
    return ""
