"""What one model under one configuration is asked: a job per leaf task and one for the test rows, each under its full key."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from retain import digest, models
from retain.errors import ConfigError
from retain.progress import Progress
from retain.resolve.work import base_folder
from retain.score import place, tasks
from retain.score.config import TARGET_TASK, ScoreConfig
from retain.score.shards import Shards

if TYPE_CHECKING:
    from retain.score.lm import Engine
    from retain.score.target import TargetRow
    from retain.score.tasks import Keep, Leaf

Role = Literal["base", "candidate", "champion", "repaired", "compressed"]
ENGINE, ENGINE_VERSION = "retain", "3"
TOKENS: dict[str, dict[str, list[int]]] = {}  # tokenizer digest → text → tokens: base and candidate share them
Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """One leaf task or the target rows: `key` names the result, `work` computes (records, facts about them)."""

    task: str
    label: str
    key: dict[str, Any]
    facts: dict[str, Any]
    items: int
    work: Callable[[], tuple[Records, dict[str, Any]]]


class Run:
    """One model under one configuration; the model is loaded when the first job needs it.

    Args:
        load: gives the engine where it is not simply that of the model folder (an adapter switched on).
        variant: what distinguishes this run from one of the model folder alone; part of every key.
        keep: which items are asked, where not all are.
        model_digest: the folder's, where it is known already.
    """

    def __init__(
        self, config: ScoreConfig, model_dir: Path, role: Role, *, load: "Callable[[], Engine] | None" = None,
        variant: Mapping[str, Any] | None = None, keep: "Keep | None" = None, model_digest: str = "",
    ) -> None:  # fmt: skip
        self.keep = keep
        self.config, self.model_dir, self.role = config, model_dir, role
        self.place, self.variant = place.resolve(config), dict(variant or {})
        self.model_digest = model_digest or digest.of_model(model_dir)
        self.tokenizer_digest = digest.of_tokenizer(model_dir)
        self._load = load or (lambda: load_engine(config, model_dir, self.place))

    def rounds(self, dataset: Path | None) -> list[list[Job]]:
        """The jobs of each round: all at once, or one part of the items after the other (config.rounds)."""
        from retain.score import rounds

        how = (self.config.rounds_seed, self.config.rounds)
        leaves = rounds.of_leaves(self._leaves(), *how)
        rows: list[list[TargetRow]] = [[] for _ in leaves]
        if dataset is not None and self.config.target.metric != "none":
            from retain.score import target

            rows = rounds.of_rows(self._kept(target.read(dataset, self.config.target.limit)), *how)
        found = [[*map(self._benchmark, some), *([self._target(mine)] if mine else [])] for some, mine in zip(leaves, rows, strict=True)]  # fmt: skip
        if not any(found):
            raise ConfigError("there is nothing to score", where="score.tasks", fix="name at least one benchmark, or give a dataset with test rows")  # fmt: skip
        return found

    def _leaves(self) -> "list[Leaf]":
        leaves = tasks.load(self.config)
        if self.keep is None:
            return leaves
        return [leaf for leaf in (each.among(self.keep) for each in leaves) if leaf.chosen]

    def _kept(self, rows: "Sequence[TargetRow]") -> "Sequence[TargetRow]":
        if self.keep is None:
            return rows
        kept = self.keep(TARGET_TASK, tuple(row.sha for row in rows))
        return [row for row, is_kept in zip(rows, kept, strict=True) if is_kept]

    @cached_property
    def engine(self) -> "Engine":
        engine = self._load()
        engine.scorer.budget = min(engine.scorer.budget, self.place.budget)
        return engine

    # ------------------------------------------------------------------ memory
    def recall(self, kept: Shards) -> None:
        """Begin with the budget that fitted before, on this kind of device for a model of this shape: base and candidate then share it."""
        self.place = replace(self.place, budget=min(kept.budget(self._shape()) or self.place.budget, self.place.budget))

    def held(self, kept: Shards) -> bool:
        """Whether the budget lasted to the end; if not, the smaller one is remembered and is now part of every key."""
        found = self.engine.scorer.budget if "engine" in self.__dict__ else self.place.budget
        if found == self.place.budget:
            return True
        kept.put_budget(self._shape(), found)
        self.place = replace(self.place, budget=found)
        return False

    def _shape(self) -> dict[str, Any]:
        """What decides how much memory a batch takes, and what was asked for."""
        return {
            "config": digest.of_file(self.model_dir / "config.json"), "dtype": self.place.dtype, "device": self.place.kind,
            "batch_tokens": self.config.batch_tokens, "max_length": self.config.max_length,
        }  # fmt: skip

    # ------------------------------------------------------------------ what is asked
    def _benchmark(self, leaf: "Leaf") -> Job:
        from retain.score import records

        config = self.config
        items = [[leaf.doc_id(number), tasks.doc_hash(doc)] for number, doc in leaf.docs()]
        key = {
            **self._key(), "task": leaf.benchmark, "stratum": leaf.stratum, "version": leaf.version, "items": digest.of_json(items),
            "definition": tasks.definition(leaf), "num_fewshot": leaf.num_fewshot, "fewshot_seed": leaf.spec.seed, "fewshot": leaf.spec.fewshot, "lm_eval": version("lm_eval"),
            "chat": leaf.chat(config), "multiturn": config.fewshot_as_multiturn, "system_text": config.system_text,
        }  # fmt: skip
        facts = {"version": leaf.version, "num_fewshot": leaf.num_fewshot, "fewshot_seed": leaf.spec.seed}
        label = leaf.stratum or leaf.benchmark

        def work() -> tuple[Records, dict[str, Any]]:
            rows = list(self._asked(leaf, label))
            return rows, self._facts()

        return Job(leaf.benchmark, label, key, {**facts, "metric": records.primary(leaf)}, len(items), work)

    def _asked(self, leaf: "Leaf", label: str) -> Iterator[dict[str, Any]]:
        from retain.score import records

        engine = self.engine
        mode = leaf.chat(self.config)
        framed = mode == "on" or (mode == "where_present" and engine.has_chat_template)
        chat = engine.apply_chat_template if framed else None
        requests = tasks.build_requests(leaf, self.config, chat, engine.tokenizer_name)
        n_docs = len({request.doc_id for request in requests})
        with self._shown(label, n_docs, len(requests)):
            tasks.answer(engine, requests)
        return records.of_leaf(leaf, engine.truncated)

    def _target(self, rows: "Sequence[TargetRow]") -> Job:
        from retain.score import target

        config = self.config.target
        key = {**self._key(), "task": TARGET_TASK, "version": target.VERSION, "items": digest.of_json([[r.id, r.sha] for r in rows]), "target": config.as_parameter(), "prompt_completion": self.config.prompt_completion}  # fmt: skip

        def work() -> tuple[Records, dict[str, Any]]:
            with self._shown(TARGET_TASK, len(rows), len(rows)):
                found, more = target.score(self.engine, rows, self.config)
            return found, {**self._facts(), **more}

        facts = {"version": target.VERSION, "num_fewshot": 0, "fewshot_seed": 0, "metric": config.metric}
        return Job(TARGET_TASK, TARGET_TASK, key, facts, len(rows), work)

    def signals(self, kept: Shards, base: Mapping[str, str], dataset: Path) -> dict[str, Any]:
        """For scores.json: {signals: …}, kept like a task's records; {signals_left_out: why} where the two models cannot be compared;
        nothing without general rows or for the base itself."""
        from retain.score import signals

        rows = signals.general(dataset, self.config.signal_rows)
        if not rows or base["digest"] == self.model_digest:
            return {}
        if models.is_encoder_decoder(self.model_dir):
            return {"signals_left_out": "an encoder–decoder reads no running text"}
        items = digest.of_json([[row["shape"], row["payload"]] for row in rows])
        same = {
            name: value for name, value in self._key().items() if name != "batch_budget"
        }  # row by row, whatever fits
        key = {**same, "task": "signals", "version": signals.VERSION, "items": items, "base": base["digest"], "prompt_completion": self.config.prompt_completion}  # fmt: skip
        if (found := kept.get(key)) is None:
            measured = signals.measure(self.config, base_folder(base), self.model_dir, rows)
            if isinstance(measured, str):
                return {"signals_left_out": measured}
            found = [], {**asdict(measured), "rise": measured.rise}
            kept.put(key, *found)
        return {"signals": found[1]}

    def _key(self) -> dict[str, Any]:
        """What every number depends on, whatever the task (gate.md, Hygiene). The template is in the tokenizer's digest."""
        return {
            "model_digest": self.model_digest, "tokenizer_digest": self.tokenizer_digest, "dtype": self.place.dtype, "device": self.place.kind,
            "batch_budget": self.place.budget, "max_length": self.config.max_length, "attention": self.config.attention,
            "template_kwargs": self.config.template_kwargs, "engine": ENGINE, "engine_version": ENGINE_VERSION, **self.variant,
        }  # fmt: skip

    def _facts(self) -> dict[str, Any]:
        """What only a loaded model can say; kept with the records, so that a full cache needs none."""
        from retain import chat

        engine = self.engine
        return {
            "template_digest": chat.template_digest(engine.tokenizer, self.config.template_kwargs), "batch_budget": engine.scorer.budget,
            "attention": "tree" if engine.scorer.tree else "plain", "max_length": engine.max_length,
        }  # fmt: skip

    @contextmanager
    def _shown(self, label: str, items: int, requests: int) -> Iterator[None]:
        """A progress bar in items, fed with requests by the engine."""
        seen = 0
        with Progress(f"score {self.role} {label}", total=items, unit="items") as progress:

            def done(count: int) -> None:
                nonlocal seen
                seen = min(seen + count, requests)
                progress.advance(items * seen // requests - progress.done)

            self.engine.done = done
            yield


def load_engine(config: ScoreConfig, model_dir: Path, where: place.Place, *, keep: bool = False) -> "Engine":
    """The model of a folder behind lm-eval's interface; `keep`: its weights stay where they can be changed (retain.score.packed)."""
    from transformers.utils import logging as quieter

    from retain.score import attention, packed, selfcheck
    from retain.score.lm import Engine
    from retain.score.seq2seq import Seq2SeqEngine

    quieter.disable_progress_bar()
    pairs = models.is_encoder_decoder(model_dir)
    model = models.load_model(model_dir, dtype=where.dtype, device=where.device, seq2seq=pairs)
    if not pairs:
        selfcheck.need_causal(model)
    packed.pack(model, where.budget, keep=keep)
    attention.use(model)
    return (Seq2SeqEngine if pairs else Engine)(
        model, models.load_tokenizer(model_dir), max_length=config.max_length, batch_tokens=where.budget, attention=config.attention,
        template_kwargs=config.template_kwargs, known=_tokens_of(model_dir),
    )  # fmt: skip


def _tokens_of(model_dir: Path) -> dict[str, list[int]]:
    """What this process has tokenised with this very tokenizer; another tokenizer's texts are let go."""
    key = digest.of_tokenizer(model_dir)
    if key not in TOKENS:
        TOKENS.clear()
    return TOKENS.setdefault(key, {})
