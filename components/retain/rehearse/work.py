"""The base answers general questions; its own answers are what a tuned model rehearses."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retain import artifacts, digest
from retain.chat import has_template, template_digest
from retain.chat.template import ChatTemplate
from retain.errors import DataRefused
from retain.mix.work import GENERATED
from retain.models import load_tokenizer
from retain.progress import Progress
from retain.rehearse.config import RehearseConfig
from retain.rehearse.filters import Sieve
from retain.rehearse.generate import Writer
from retain.rehearse.questions import Question, beginning, from_dataset
from retain.rehearse.store import BatchStore

# What changes neither questions nor answers: more rows, or looser filters, use the batches that are there.
OUTSIDE_THE_KEY = ("rows", "max_attempts", "keep_unfinished", "max_repeat_share")


@dataclass(frozen=True)
class RehearseResult:
    """Rows written, what was dropped and why, tokens of the answers, and how many answers came from the cache."""

    rows: int
    asked: int
    dropped: dict[str, int] = field(default_factory=dict)
    answer_tokens: int = 0
    cached_answers: int = 0
    digest: str = ""


def rehearse(config: RehearseConfig, model_dir: Path, prompts: Path, dataset: Path, cache: Path) -> RehearseResult:
    """Write ``dataset`` (part replay, split train, source "generated") with the base's answers to general questions.

    ``prompts`` is a dataset/ whose replay rows ask the questions, if it has any. Answers are kept under ``cache`` by
    base digest, questions and settings: a killed run goes on, and a second run asks nothing.
    Raises DataRefused (exit 7) where no answer could be used.
    """
    base = digest.of_model(model_dir)
    if not config.rows:
        return RehearseResult(
            0, 0, digest=artifacts.write_rows(dataset, "retain.dataset/1", [], base_digest=base)["digest"]
        )
    job = _Job(config, model_dir, prompts, cache, base)
    with Progress("rehearse", total=config.rows, unit="rows") as progress:
        rows = list(job.rows(progress))
    if not rows:
        raise DataRefused(
            "the base wrote no answer that could be used", where=str(model_dir), got=json.dumps(dict(job.sieve.dropped)),
            fix="raise rehearse.max_new_tokens, set keep_unfinished, or give general rows with part replay",
        )  # fmt: skip
    info = artifacts.write_rows(dataset, "retain.dataset/1", rows, base_digest=base, dropped=dict(job.sieve.dropped))
    return RehearseResult(len(rows), job.asked, dict(job.sieve.dropped), job.tokens, job.cached, info["digest"])


class _Job:
    """Batch after batch of questions and answers, from the store or from the model, until enough are kept."""

    def __init__(self, config: RehearseConfig, model_dir: Path, prompts: Path, cache: Path, base: str) -> None:
        self.config, self._model_dir = config, model_dir
        self.sieve, self.asked, self.tokens, self.cached = Sieve(config), 0, 0, 0
        self._tokenizer = load_tokenizer(model_dir)
        self._template = ChatTemplate(self._tokenizer, config.template_kwargs)
        self._questions = _questions(config, prompts, self._tokenizer, self._template)
        settings = {k: v for k, v in config.as_parameter().items() if k not in OUTSIDE_THE_KEY}
        asked = digest.of_rows([q.prompt for q in self._questions])
        template = template_digest(self._tokenizer, config.template_kwargs)
        self._store = BatchStore(cache, {"base": base, "template": template, "questions": asked, **settings})
        self._writer: Writer | None = None

    def rows(self, progress: Progress) -> Iterator[dict[str, Any]]:
        """Rows of DATASET_SCHEMA, at most ``config.rows``."""
        kept = 0
        for answer in self._answers():
            self.asked += 1
            if not self.sieve.reason(answer["question"], answer["answer"], finished=answer["finished"]):
                kept += 1
                self.tokens += answer["tokens"]
                progress.advance(note=f"{sum(self.sieve.dropped.values())} dropped")
                yield self._row(kept, answer)
            if kept == self.config.rows:
                return

    def _answers(self) -> Iterator[dict[str, Any]]:
        size = self.config.batch_rows
        most = int(self.config.rows * self.config.max_attempts)
        asked = min(most, len(self._questions)) if self._questions else most
        for batch in range(-(-asked // size)):
            answers = self._store.get(batch)
            if answers is None:
                answers = self._ask(batch)
                self._store.put(batch, answers)
            else:
                self.cached += len(answers)
            yield from answers

    def _ask(self, batch: int) -> list[dict[str, Any]]:
        self._writer = self._writer or Writer(self._model_dir, self.config, self._end_of_turn())
        seed, framed = self.config.seed * 1_000_003 + 2 * batch, has_template(self._tokenizer)
        size = self.config.batch_rows
        if self._questions:
            questions = self._questions[batch * size : (batch + 1) * size]
        elif framed:
            questions = self._own_questions(seed, size)
        else:
            return self._own_texts(seed, size)
        if not questions:
            return []
        answers = self._writer.write(
            [q.prompt for q in questions], framed=framed, new_tokens=self.config.max_new_tokens, temperature=self.config.temperature, seed=seed + 1
        )  # fmt: skip
        return [
            {
                "messages": q.messages,
                "question": q.messages[-1]["content"],
                "answer": a.text,
                "finished": a.finished,
                "tokens": a.tokens,
            }
            for q, a in zip(questions, answers, strict=True)
        ]

    def _own_questions(self, seed: int, size: int) -> list[Question]:
        assert self._writer is not None
        start = beginning(self._tokenizer, self._template)
        written = self._writer.write(
            [start] * size, framed=True, new_tokens=self.config.max_prompt_tokens, temperature=self.config.prompt_temperature, seed=seed
        )  # fmt: skip
        # A question that was cut, or that holds no word, is not worth an answer.
        chats = [({"role": "user", "content": w.text},) for w in written if w.finished and w.text]
        return [Question(chat, self._template.text(chat, prompt=True)) for chat in chats]

    def _own_texts(self, seed: int, size: int) -> list[dict[str, Any]]:
        assert self._writer is not None
        start = beginning(self._tokenizer, self._template)
        written = self._writer.write(
            [start] * size, framed=True, new_tokens=self.config.max_new_tokens, temperature=self.config.prompt_temperature, seed=seed
        )  # fmt: skip
        return [
            {"messages": [], "question": "", "answer": w.text, "finished": True, "tokens": w.tokens} for w in written
        ]

    def _end_of_turn(self) -> str:
        return self._template.end_of_turn if has_template(self._tokenizer) else ""

    def _row(self, number: int, answer: dict[str, Any]) -> dict[str, Any]:
        messages = list(answer["messages"])
        if not messages:
            shape, payload = "text", {"text": answer["answer"]}
        elif has_template(self._tokenizer):
            shape, payload = "messages", {"messages": [*messages, {"role": "assistant", "content": answer["answer"]}]}
        else:
            shape, payload = "prompt_completion", {"prompt": answer["question"], "completion": answer["answer"]}
        return {
            "id": f"generated-{number:06d}", "source": GENERATED, "part": "replay", "split": "train", "shape": shape, "weight": 1.0,
            "payload": digest.canonical_json(payload),
        }  # fmt: skip


def _questions(config: RehearseConfig, prompts: Path, tokenizer: Any, template: ChatTemplate) -> list[Question]:
    """The dataset's questions; empty where the model is to write its own."""
    if config.prompts == "own":
        return []
    found = from_dataset(config, prompts, tokenizer, template)
    if not found and config.prompts == "dataset":
        raise DataRefused(
            "there is no question to ask the base", where=str(prompts), got=f"no replay row with a question of at most {config.max_prompt_tokens} tokens",
            fix="give rows with part replay, raise rehearse.max_prompt_tokens, or set rehearse.prompts: own",
        )  # fmt: skip
    return found
