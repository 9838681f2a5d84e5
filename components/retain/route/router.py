"""The learned router: TF-IDF of character n-grams and a logistic regression (scikit-learn), saved as JSON and plain arrays.

One class is the base itself, learned from the general rows: a prompt of no domain is not sent through an adapter.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retain import digest
from retain.artifacts import read_json, write_json
from retain.errors import ConfigError, IntegrityError
from retain.route.config import RouteConfig

if TYPE_CHECKING:
    import numpy as np

BASE = "base"
SCHEMA = "retain.router/1"


@dataclass(frozen=True)
class Choice:
    """adapter: a domain, or ``base``; confidence: probability of the choice, 1 for a tag."""

    adapter: str
    confidence: float
    by_tag: bool = False


@dataclass(frozen=True)
class Router:
    """vocabulary: n-gram → column; idf: (columns,); weights: (names, columns); bias: (names,)."""

    config: RouteConfig
    names: tuple[str, ...]
    vocabulary: dict[str, int]
    idf: "np.ndarray"
    weights: "np.ndarray"
    bias: "np.ndarray"

    def choose(self, prompts: Sequence[str]) -> list[Choice]:
        """Where each prompt goes: its tag's domain, else the likeliest one, else (too unsure) the base."""
        shares = self.probabilities(prompts)
        return [self._tagged(text) or self._likeliest(row) for text, row in zip(prompts, shares, strict=True)]

    def _tagged(self, text: str) -> Choice | None:
        if not self.config.tag:
            return None
        found = [name for name in self.names if name != BASE and self.config.tag.format(domain=name) in text]
        return Choice(found[0], 1.0, by_tag=True) if len(found) == 1 else None

    def _likeliest(self, shares: "np.ndarray") -> Choice:
        best = int(shares.argmax())
        name = self.names[best] if shares[best] >= self.config.min_confidence else BASE
        return Choice(name, float(shares[best]))

    def probabilities(self, prompts: Sequence[str]) -> "np.ndarray":
        """(prompts, names), rows add up to 1."""
        from scipy.special import softmax

        vectorizer = _vectorizer(self.config, self.vocabulary)
        vectorizer.idf_ = self.idf
        return softmax(vectorizer.transform(list(prompts)) @ self.weights.T + self.bias, axis=1)  # type: ignore[no-any-return]

    def save(self, folder: Path) -> str:
        """Write router.npz and router.json (last); returns the digest of both."""
        import numpy as np

        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"router.{os.getpid()}.partial.npz"
        np.savez(partial, idf=self.idf, weights=self.weights, bias=self.bias)
        partial.replace(folder / "router.npz")
        words = [word for word, _ in sorted(self.vocabulary.items(), key=lambda item: item[1])]
        card = {"schema": SCHEMA, "config": self.config.as_parameter(), "names": list(self.names), "vocabulary": words, "arrays": digest.of_file(folder / "router.npz")}  # fmt: skip
        write_json(folder / "router.json", card)
        return digest.of_json(card)


def load(folder: Path) -> Router:
    """A saved router; IntegrityError (6) where its arrays are not the ones its card names."""
    import numpy as np

    card = read_json(folder / "router.json", schema=SCHEMA)
    got = digest.of_file(folder / "router.npz")
    if got != card["arrays"]:
        raise IntegrityError("the router's arrays were changed after they were written", where=str(folder), got=got, expected=card["arrays"], fix="train the router again")  # fmt: skip
    with np.load(folder / "router.npz", allow_pickle=False) as arrays:
        vocabulary = {word: i for i, word in enumerate(card["vocabulary"])}
        return Router(RouteConfig.model_validate(card["config"]), tuple(card["names"]), vocabulary, arrays["idf"], arrays["weights"], arrays["bias"])  # fmt: skip


def train(config: RouteConfig, prompts: Sequence[str], names: Sequence[str]) -> Router:
    """A router that tells ``names`` apart; ConfigError (2) for fewer than two of them. The same input, the same router."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    if len(set(names)) < 2:
        raise ConfigError("there is nothing to route between", got=", ".join(sorted(set(names))) or "no rows", expected="train rows of two domains, or of one and general rows")  # fmt: skip
    vectorizer = _vectorizer(config)
    features = vectorizer.fit_transform(list(prompts))
    fitted = LogisticRegression(C=config.inverse_penalty, class_weight="balanced", max_iter=1000)
    fitted.fit(features, list(names))
    weights, bias = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:  # scikit-learn keeps one row for two classes
        weights, bias = np.vstack([0 * weights, weights]), np.concatenate([0 * bias, bias])
    vocabulary = {str(word): int(column) for word, column in vectorizer.vocabulary_.items()}
    return Router(config, tuple(str(n) for n in fitted.classes_), vocabulary, vectorizer.idf_, weights, bias)


def _vectorizer(config: RouteConfig, vocabulary: dict[str, int] | None = None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        analyzer="char_wb", ngram_range=(1, config.longest_ngram), sublinear_tf=True, vocabulary=vocabulary,
        max_features=None if vocabulary else config.max_features,
    )  # fmt: skip
