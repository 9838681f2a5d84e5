"""Which of the base's answers are worth rehearsing. Pure."""

from collections import Counter

from retain.rehearse.config import RehearseConfig

RUN_WORDS = 4


def repeat_share(text: str) -> float:
    """Share of the 4-word runs of ``text`` that stand in it before (0: none; a loop comes near 1)."""
    words = text.lower().split()
    runs = Counter(tuple(words[i : i + RUN_WORDS]) for i in range(len(words) - RUN_WORDS + 1))
    total = sum(runs.values())
    return 1 - len(runs) / total if total else 0.0


class Sieve:
    """Sorts answers: '' keeps one, else the reason why not (empty, unfinished, loop, repeat)."""

    def __init__(self, config: RehearseConfig) -> None:
        self._config, self._seen = config, set[str]()
        self.dropped: Counter[str] = Counter()

    def reason(self, question: str, answer: str, *, finished: bool) -> str:
        why = self._why(question, answer, finished)
        if why:
            self.dropped[why] += 1
        else:
            self._seen |= self._keys(question, answer)
        return why

    def _why(self, question: str, answer: str, finished: bool) -> str:
        if not answer.strip():
            return "empty"
        if not finished and not self._config.keep_unfinished:
            return "unfinished"
        if max(repeat_share(answer), repeat_share(question)) > self._config.max_repeat_share:
            return "loop"
        return "repeat" if self._keys(question, answer) & self._seen else ""

    @staticmethod
    def _keys(question: str, answer: str) -> set[str]:
        """What must not come twice: the question, and an answer that is more than a "yes"."""
        return {
            key
            for key in (_key(question), _key(answer))
            if key and (key != _key(answer) or key.count(" ") >= RUN_WORDS - 1)
        }


def _key(text: str) -> str:
    return " ".join(text.lower().split())
