"""The house of lm-eval's task side: finding tasks, their documents, requests and per-item results. Imports no torch."""

import contextlib
import io
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from retain import digest
from retain.config import nearest
from retain.errors import ConfigError, EnvironmentFault
from retain.score.config import ScoreConfig, TaskSpec

# (benchmark, clusters of its items) → which items are meant.
Keep = Callable[[str, tuple[str, ...]], Sequence[bool]]
HERE = Path(__file__).parent
CORE = HERE / "core"
# Suites that take rows of the user's own behind the shipped ones.
WITH_ROWS = (HERE / "safety", HERE / "open")
# What lm-eval adds to a task's metadata that says where it lies, not what it is.
PLACES = ("config_source", "rows")
# Names in a task file's text: `task: arc_easy`, `group: mmlu`.
NAMED = re.compile(r"^(?:task|group):\s*[\"']?([\w.-]+)", re.MULTILINE)


@dataclass(frozen=True)
class Leaf:
    """One lm-eval task in the frame of a benchmark: `benchmark` is the name in the records, `stratum` the leaf's own.

    `chosen`: numbers of the documents that are asked, where not all are (`among`).
    """

    benchmark: str
    stratum: str
    spec: TaskSpec
    task: Any
    chosen: frozenset[int] | None = None

    @property
    def version(self) -> str:
        return str(self.task.VERSION)

    @property
    def num_fewshot(self) -> int:
        return int(self.task.config.num_fewshot or 0)

    def doc_id(self, number: int) -> str:
        return f"{self.stratum}:{number}" if self.stratum else str(number)

    def chat(self, config: ScoreConfig) -> Literal["on", "off", "where_present"]:
        """Whether the prompts go through the chat template: as the spec says, else the task itself, else the whole scoring."""
        own = str((self.task.config.metadata or {}).get("chat", ""))
        if self.spec.chat == "task" and own == "where_present":
            return "where_present"
        return ("on" if config.apply_chat_template else "off") if self.spec.chat == "task" else self.spec.chat

    def docs(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number, document) of the items that count, in the task's own order."""
        for number, doc in self.task.doc_iterator(limit=self.spec.limit or None):
            if self.chosen is None or number in self.chosen:
                yield number, doc

    def among(self, keep: "Keep") -> "Leaf":
        """The same with those documents alone whose clusters ``keep`` takes."""
        docs = list(self.docs())
        kept = keep(self.benchmark, tuple(cluster_of(doc) for _, doc in docs))
        return replace(self, chosen=frozenset(number for (number, _), is_kept in zip(docs, kept, strict=True) if is_kept))  # fmt: skip


def load(config: ScoreConfig) -> list[Leaf]:
    """The leaf tasks of all benchmarks, ready to be asked; no request is built yet.

    A group (mmlu) is one benchmark whose leaves are strata; a tag (ai2_arc) is several benchmarks. lm-eval's own task
    folder is read (7 s) only when a name is not found on the include path.
    """
    if not config.tasks:
        return []
    manager = _manager(config)
    leaves = [leaf for spec in config.tasks for leaf in _leaves(manager, spec, config)]
    _refuse_twice(leaves)
    return leaves


def _manager(config: ScoreConfig) -> Any:
    from lm_eval.tasks import TaskManager

    for path in config.include_path:
        if not Path(path).is_dir():
            raise ConfigError("there is no such folder of tasks", where="score.include_path", got=path)
    paths = [str(path) for path in (CORE, *WITH_ROWS, *config.include_path)]
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=paths, include_defaults=False)
    missing = [
        spec.name for spec in config.tasks if spec.name not in manager.all_tasks and not Path(spec.name).is_file()
    ]
    if not missing:
        return manager
    _refuse_unknown(missing, manager.all_tasks)
    return TaskManager(include_path=paths)


def _refuse_unknown(names: list[str], known: list[str]) -> None:
    """An error for a name that no task file of lm-eval mentions: found by a quick look at their text (1 s)."""
    import lm_eval.tasks

    texts = [path.read_text(encoding="utf-8") for path in Path(lm_eval.tasks.__file__).parent.rglob("*.yaml")]
    for name in names:
        if not any(name in text for text in texts):
            raise _unknown(name, known + [word for text in texts for word in NAMED.findall(text)])


def _unknown(name: str, known: list[str]) -> ConfigError:
    near = nearest(name, known)
    return ConfigError(
        "no such benchmark", where="score.tasks", got=name, expected=f"did you mean '{near}'?" if near else "a name lm-eval knows",
        fix="give lm-eval's name of the task, or put its YAML file on score.include_path",
    )  # fmt: skip


def _leaves(manager: Any, spec: TaskSpec, config: ScoreConfig) -> list[Leaf]:
    loaded = _loaded(_with_rows(spec) if spec.rows else manager, spec)
    tasks = [_prepared(task, spec, config) for task in loaded["tasks"].values()]
    if spec.name in loaded.get("groups", {}):
        return [Leaf(spec.name, task.task_name, spec, task) for task in tasks]
    return [Leaf(task.task_name, "", spec, task) for task in tasks]


def _with_rows(spec: TaskSpec) -> Any:
    """A manager whose suites read the user's rows too."""
    from lm_eval.tasks import TaskManager

    from retain import uris
    from retain.tracking import home

    own = uris.fetch(spec.rows, home() / "files")
    manager = TaskManager(include_path=[str(path) for path in WITH_ROWS], include_defaults=False, metadata={"rows": str(own)})  # fmt: skip
    if spec.name not in manager.all_tasks:
        raise ConfigError("only the shipped suites of prompts take rows", where="score.tasks.rows", got=spec.name, expected=", ".join(manager.all_tasks), fix="put a YAML file of your own on score.include_path")  # fmt: skip
    return manager


def _loaded(manager: Any, spec: TaskSpec) -> Any:
    if spec.name not in manager.all_tasks and not Path(spec.name).is_file():
        raise _unknown(spec.name, manager.all_tasks)
    try:
        with quiet():
            return manager.load([spec.name])
    except OSError as error:
        raise EnvironmentFault(
            "the data of a benchmark cannot be reached", where=f"task {spec.name}", got=str(error).splitlines()[0],
            fix="fetch the dataset once where there is a network (HF_HOME keeps it), or give a YAML file of the task that reads local files",
        ) from error  # fmt: skip
    except ImportError as error:
        raise EnvironmentFault(
            "a benchmark's own functions need a file or a library that is not there", where=f"task {spec.name}", got=error,
            fix=f"pip install {error.name}, or leave this benchmark out" if error.name else "put the file beside the task's YAML file",
        ) from error  # fmt: skip


def _prepared(task: Any, spec: TaskSpec, config: ScoreConfig) -> Any:
    """The task with its few-shot number and seed set by lm-eval's own rule (evaluator.py, simple_evaluate)."""
    pinned = task.get_config("num_fewshot")
    if spec.num_fewshot != "task" and pinned == 0 and spec.num_fewshot > 0:
        raise ConfigError(
            "this task is defined without few-shot examples", where=f"score.tasks: {task.task_name}",
            got=f"num_fewshot: {spec.num_fewshot}", expected="0 or `task`",
        )  # fmt: skip
    if spec.num_fewshot != "task":
        task.set_config(key="num_fewshot", value=spec.num_fewshot)
    elif pinned is None:
        task.set_config(key="num_fewshot", value=0)
    if getattr(task, "UNSAFE_CODE", False) and not config.run_code:
        raise ConfigError(
            "this benchmark runs the model's answers as programs", where=f"task {task.task_name}",
            fix="set score.run_code: true in a place where that does no harm",
        )  # fmt: skip
    if spec.fewshot == "first":
        task.sampler = _first(task)
    task.set_fewshot_seed(seed=spec.seed)
    return task


def _first(task: Any) -> Any:
    from lm_eval.api.samplers import get_sampler

    return get_sampler("first_n")(list(task.fewshot_docs()))


def _refuse_twice(leaves: list[Leaf]) -> None:
    seen: set[tuple[str, str]] = set()
    for leaf in leaves:
        if (leaf.benchmark, leaf.stratum) in seen:
            raise ConfigError("a benchmark is asked for twice", where="score.tasks", got=leaf.stratum or leaf.benchmark)
        seen.add((leaf.benchmark, leaf.stratum))


def build_requests(leaf: Leaf, config: ScoreConfig, chat: Callable[..., str] | None, tokenizer_name: str) -> list[Any]:
    """lm-eval's requests (Instances) of a leaf, in its own order; `chat` renders messages, None where the template is off."""
    with quiet():
        leaf.task.build_all_requests(
            limit=leaf.spec.limit or None, system_instruction=config.system_text or None, apply_chat_template=chat is not None,
            fewshot_as_multiturn=config.fewshot_as_multiturn, chat_template=chat, tokenizer_name=tokenizer_name if chat else "",
        )  # fmt: skip
    if leaf.chosen is not None:  # taken out afterwards: few-shot examples are drawn document by document
        leaf.task._instances = [one for one in leaf.task.instances if one.doc_id in leaf.chosen]
    return list(leaf.task.instances)


def results(leaf: Leaf) -> Iterator[tuple[int, dict[str, Any], list[Any], str, dict[str, Any]]]:
    """(number, document, its requests, filter, {metric: value}) after the responses were put into the requests."""
    leaf.task.apply_filters()
    by_doc = defaultdict(list)
    for instance in leaf.task.instances:
        by_doc[instance.doc_id].append(instance)
    for filter_name in leaf.task.instances[0].filtered_resps:
        for number, doc in leaf.docs():
            asked = sorted(by_doc[number], key=lambda instance: instance.idx)
            answers = [instance.filtered_resps[filter_name] for instance in asked]
            yield number, doc, asked, filter_name, leaf.task.process_results(doc, answers)


def answer(engine: Any, requests: list[Any]) -> None:
    """Put the engine's responses into the requests, kind by kind, repeats included (as lm-eval's evaluator does)."""
    by_kind: dict[str, list[Any]] = defaultdict(list)
    for request in requests:
        by_kind[request.request_type] += [request] * request.repeats
    for kind, asked in by_kind.items():
        for request, response in zip(asked, getattr(engine, kind)(asked), strict=True):
            request.resps.append(response)


def definition(leaf: Leaf) -> str:
    """Digest of everything the task's definition says: prompts, choices, metrics, filters, sources of its functions."""
    config = leaf.task.dump_config()
    metadata = {k: v for k, v in (config.get("metadata") or {}).items() if k not in PLACES}
    return digest.of_json(_plain({**config, "metadata": metadata}))


def cluster_of(doc: Any) -> str:
    """What items that belong together share; an item may be its own."""
    return str(doc.get("cluster") or doc_hash(doc))


def doc_hash(doc: Any) -> str:
    """sha256 of the canonical JSON of a document; what JSON does not know (dates, arrays, NaN) goes in as text."""
    return digest.of_json(_plain(doc))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return value if isinstance(value, float) and abs(value) < float("inf") else str(value)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's and datasets' own progress bars off the terminal: this step shows its own."""
    import datasets

    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        if not shown:
            datasets.enable_progress_bars()
