"""What a person sees of a local run: each step's title and its own lines, without the engine's dumps.

In a parallel loop kfp.local's threads print at once, each deeper than the one before (4, 8, 12 blanks), and lines of
one step stand between those of another: so nothing here counts on an order, but that of one step's own words.
"""

import re
from collections.abc import Mapping

CACHED = re.compile(r"Task '?([\w-]+)'? cache hit")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
STARTED = re.compile(r"Executing task '([^']+)'")
FINISHED = re.compile(r"Task '[^']+' finished with status")
DUMPS = ("[KFP Executor", "Found image ")
INPUTS = "Got executor_input:"
OUTPUTS_END = "-----"  # the line that closes a step's outputs
INDENT = "    "  # kfp.local prints a step's own lines at least this deep
JSON_LINE = re.compile(r'[{}\[\]]+,?|"(\\.|[^"\\])*"(: .*)?,?|(-?\d[\d.eE+-]*|true|false|null),?')


class Screen:
    """One run, line by line. ``titles``: task name → the name to show."""

    def __init__(self, titles: Mapping[str, str]) -> None:
        self.titles = titles
        self._running, self._depth = 0, len(INDENT)
        self._in_outputs, self._in_inputs = False, False

    def line(self, raw: str) -> str:
        """The line to show, or an empty string."""
        text = COLOUR.sub("", raw)
        if started := STARTED.search(text):
            self._running, self._in_outputs = self._running + 1, False
            return f"\n── {self.titles.get(started[1], started[1])}\n"
        if cached := CACHED.search(text):
            return f"\n── {self.titles.get(cached[1], cached[1])}  (unchanged: kept from an earlier run)\n"
        if FINISHED.search(text):
            self._running, self._in_outputs = max(0, self._running - 1), True
            self._in_inputs &= self._running > 0
        if text.startswith(OUTPUTS_END):
            self._in_outputs = False
        own = self._running and not self._in_outputs and text.startswith(INDENT)
        return self._own(text) if own else ""

    def _own(self, text: str) -> str:
        """A line of a step at its own depth; nothing where the engine speaks, or prints the step's inputs as JSON."""
        words = text.strip()
        depth = len(text) - len(text.lstrip())
        if words.startswith(DUMPS):
            self._depth = depth
            self._in_inputs |= words.endswith(INPUTS)
            return ""
        if self._in_inputs and JSON_LINE.fullmatch(words):
            self._in_inputs = self._running > 1 or words != "}" or depth != self._depth
            return ""
        if not words:
            return ""
        return text[min(depth, self._depth) :]
