"""Rows in, tokens out: rendered, masked, tokenised in batches, cut to length, counted."""

import contextlib
import gc
import importlib.metadata
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from retain import artifacts, digest
from retain.artifacts import IGNORED_LABEL
from retain.chat import ChatOptions, Draft, Rendered, Renderer, nothing_supervised, sides, template_digest
from retain.errors import DataRefused
from retain.models import load_tokenizer
from retain.progress import Progress
from retain.template.cache import TokenCache, Tokens, chunks
from retain.template.config import TemplateConfig
from retain.template.counts import Counts
from retain.template.preview import Sampler, preview_page
from retain.template.texts import TextWriter, text_of

# Rows of an older version of this code are rendered again.
RENDERING = 2
LISTED = 1000
T = TypeVar("T")


@dataclass(frozen=True)
class TemplateResult:
    """Counts of rows and tokens; ``long_rows`` were cut or left out, ``test_rows`` are for the target metric alone."""

    rows: int
    tokens: int
    supervised_tokens: int
    tokenised_rows: int
    cached_rows: int
    test_rows: int
    long_rows: int
    rewritten_turns: int
    tokens_per_second: float
    digest: str
    template_digest: str


def template(
    config: TemplateConfig, dataset: Path, model_dir: Path, rendered: Path, preview: Path, *, generated: Path | None = None, cache: Path | None = None
) -> TemplateResult:  # fmt: skip
    """Render every row of ``dataset`` (and of ``generated``, the base's own replay rows) but those of split test.

    ``rendered`` gets the tokens and texts.parquet (the words of each row), ``preview`` an HTML page. With a ``cache``
    folder, rows that were rendered before with the same tokenizer, template and options are not tokenised again.
    Raises DataRefused (exit 7) for a row that cannot be rendered or carries no loss, with the row's id.
    """
    started = time.monotonic()
    folders = [dataset, *([generated] if generated else [])]
    infos = [artifacts.read_info(folder, "retain.dataset/1") for folder in folders]
    tokenizer = load_tokenizer(model_dir)
    options = config.chat_options(encoder_decoder=_has_encoder(model_dir), class_names=_class_names(config, folders))
    facts = {
        "template_digest": template_digest(tokenizer, options.template_kwargs),
        "tokenizer_digest": digest.of_tokenizer(model_dir),
    }
    counts, sampler, renderer = Counts(), Sampler(config.preview_rows), Renderer(tokenizer, options)
    artifacts.check_writable(rendered)
    texts = TextWriter(rendered)
    with Progress("template", total=sum(info["rows"] for info in infos), unit="rows") as progress:
        job = _Job(config, renderer, TokenCache(cache, _setup(options, facts)), counts, sampler, texts, progress)
        info = artifacts.write_rows(
            rendered, "retain.rendered/1", job.rows(folders), **facts, options=options.as_parameter()
        )
    info |= {"texts_digest": texts.close(), "max_seq_length": job.limit, **_facts_of(counts)}
    artifacts.write_json(rendered / "info.json", info)
    preview.write_text(preview_page(tokenizer, renderer.template, config, counts, sampler, facts), encoding="utf-8")
    return _result(counts, info, time.monotonic() - started)


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Rows make no cycles, but so many objects that looking for cycles takes a fifth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def ahead(things: Iterator[T]) -> Iterator[T]:
    """``things`` with the next one already taken (and so begun) while one is worked on."""
    before = list(itertools.islice(things, 1))
    for thing in things:
        yield before.pop()
        before.append(thing)
    yield from before


class _Job:
    """One pass over the rows: chunk by chunk, from the cache or the tokenizer."""

    def __init__(
        self, config: TemplateConfig, renderer: Renderer, cache: TokenCache, counts: Counts, sampler: Sampler, texts: TextWriter, progress: Progress
    ) -> None:  # fmt: skip
        self.config, self.renderer, self.cache = config, renderer, cache
        self.counts, self.sampler, self.texts, self.progress = counts, sampler, texts, progress
        self.limit = min(config.max_seq_length, int(renderer.tokenizer.model_max_length))

    def rows(self, folders: list[Path]) -> Iterator[dict[str, Any]]:
        """Rows of TOKEN_SCHEMA in the order of the datasets."""
        every = itertools.chain.from_iterable(artifacts.read_rows(folder, "retain.dataset/1") for folder in folders)
        with ThreadPoolExecutor(1) as pool, _without_garbage_collection():
            for chunk, tokens in ahead(self._started(pool, chunks(self._not_test(every), self.config.batch_rows))):
                for row, own in zip(chunk, tokens.result(), strict=True):
                    yield from self._shortened(row, own)
                self.progress.advance(len(chunk), note=f"{self.counts.total('tokens'):,} tokens")

    def _started(
        self, pool: Executor, every: Iterable[tuple[str, list[dict[str, Any]]]]
    ) -> Iterator[tuple[list[dict[str, Any]], Future[list[Tokens]]]]:
        """Draft a chunk here and leave its tokenising, which holds no lock of Python's, to a thread of its own."""
        for key, chunk in every:
            payloads = [json.loads(row["payload"]) for row in chunk]
            self.texts.add(
                [{"id": row["id"], "text": text_of(payload)} for row, payload in zip(chunk, payloads, strict=True)]
            )
            known = self.cache.get(key)
            if known is not None and len(known) == len(chunk):
                self.counts.cached += len(chunk)
                yield chunk, pool.submit(list, known)
            else:
                drafts = [
                    [
                        self.renderer.draft(*side, where=f"{row['source']}, row {row['id']}")
                        for side in sides(row["shape"], payload)
                    ]
                    for row, payload in zip(chunk, payloads, strict=True)
                ]
                yield chunk, pool.submit(self._tokens, key, drafts)

    def _not_test(self, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            if row["split"] == "test":
                self.counts.test += 1
                self.progress.advance()
            else:
                yield row

    def _tokens(self, key: str, drafts: list[list[Draft]]) -> list[Tokens]:
        """Rows of one draft, or of two where a chosen answer has a rejected one."""
        done = iter(self.renderer.encode([draft for row in drafts for draft in row]))
        tokens = [_as_tokens([next(done) for _ in row]) for row in drafts]
        self.counts.tokenised += len(drafts)
        self.cache.put(key, tokens)
        return tokens

    def _shortened(self, row: dict[str, Any], tokens: Tokens) -> Iterator[dict[str, Any]]:
        answers = [(tokens.input_ids, tokens.labels)]
        if tokens.rejected_input_ids is not None and tokens.rejected_labels is not None:
            answers.append((tokens.rejected_input_ids, tokens.rejected_labels))
        self.counts.rewritten += tokens.rewritten
        # A dataset's weight says how often its source is drawn (mix); only a turn's own weight scales the loss.
        self.counts.source_weights[row["source"]] = row["weight"]
        longest = max(len(part) for answer in answers for part in answer)
        if longest > self.limit:
            self.counts.long_rows.append((row["id"], longest))
            if self.config.long_rows == "drop":
                return
            answers = [self._cut(row, *answer) for answer in answers]
        done = {
            "id": row["id"], "source": row["source"], "part": row["part"], "split": row["split"],
            "weight": tokens.weight, "input_ids": answers[0][0], "labels": answers[0][1],
            "n_supervised": sum(len(labels) - labels.count(IGNORED_LABEL) for _, labels in answers), **_judgement(row, answers),
        }  # fmt: skip
        self.counts.add(done)
        self.sampler.offer(done)
        yield done

    def _cut(self, row: dict[str, Any], ids: list[int], labels: list[int]) -> tuple[list[int], list[int]]:
        where = f"{row['source']}, row {row['id']}"
        if self.config.long_rows == "refuse":
            raise DataRefused(
                "a row is longer than the limit", where=where, got=f"{len(ids)} tokens", expected=f"at most {self.limit}",
                fix="raise template.max_seq_length, or set template.long_rows to drop or truncate",
            )  # fmt: skip
        ids, labels = ids[: self.limit], labels[: self.limit]
        if all(label == IGNORED_LABEL for label in labels):
            raise nothing_supervised(f"{where}, cut to {self.limit} tokens")
        return ids, labels


def _as_tokens(answers: list[Rendered]) -> Tokens:
    first, *second = answers
    other = (second[0].input_ids, second[0].labels) if second else (None, None)
    return Tokens(first.input_ids, first.labels, first.weight, sum(a.rewritten_turns for a in answers), *other)


def _judgement(row: dict[str, Any], answers: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    """The columns of a row that judges answers: the rejected side, or whether the only side is desirable."""
    if row["shape"] == "kto":
        return {"desirable": json.loads(row["payload"])["label"]}
    return {"rejected_input_ids": answers[1][0], "rejected_labels": answers[1][1]} if len(answers) > 1 else {}


def _has_encoder(model_dir: Path) -> bool:
    config = model_dir / "config.json"
    return config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("is_encoder_decoder"))


def _class_names(config: TemplateConfig, folders: list[Path]) -> tuple[str, ...]:
    """Labels of all classification rows, whole numbers in numeric order; empty unless a classifier head needs them."""
    if config.classification != "head":
        return ()
    every = itertools.chain.from_iterable(artifacts.read_rows(folder, "retain.dataset/1") for folder in folders)
    names = {str(json.loads(row["payload"])["label"]) for row in every if row["shape"] == "classification"}
    return tuple(sorted(names, key=lambda name: (int(name), "") if name.lstrip("-").isdecimal() else (1 << 62, name)))


def _setup(options: ChatOptions, facts: dict[str, str]) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("transformers", "tokenizers")}
    return {"rendering": RENDERING, "options": options.as_parameter(), **facts, **versions}


def _facts_of(counts: Counts) -> dict[str, Any]:
    groups: dict[str, dict[str, int]] = {}
    for (part, split, what), count in sorted(counts.groups.items()):
        groups.setdefault(f"{part}/{split}", {})[what] = count
    listed = [{"id": name, "tokens": tokens} for name, tokens in counts.long_rows[:LISTED]]
    return {
        "groups": groups,
        "test_rows": counts.test,
        "long_rows": len(counts.long_rows),
        "long_rows_listed": listed,
        "rewritten_turns": counts.rewritten,
    }


def _result(counts: Counts, info: dict[str, Any], seconds: float) -> TemplateResult:
    return TemplateResult(
        rows=info["rows"], tokens=counts.total("tokens"), supervised_tokens=counts.total("supervised"), tokenised_rows=counts.tokenised,
        cached_rows=counts.cached, test_rows=counts.test, long_rows=len(counts.long_rows), rewritten_turns=counts.rewritten,
        tokens_per_second=counts.total("tokens") / max(seconds, 1e-9), digest=info["digest"], template_digest=info["template_digest"],
    )  # fmt: skip
