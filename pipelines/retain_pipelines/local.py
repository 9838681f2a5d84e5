"""The laptop's engine: kfp.local behind one guard.

kfp.local has traps (each reproduced with 2.17): a condition on a named output is skipped and the run succeeds; any fault
while a condition is evaluated counts as false; ``print`` is patched for good; its cache key is the image's name. So the
compiled pipeline is linted for what would be skipped, images are named by content, the run lives in a process of its own,
its log is searched for swallowed faults, and a run that ends in none of the final tasks is a failure, never a success.
"""

import copy
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retain import images
from retain.errors import EnvironmentFault, ExitCode, RetainError, UsageError
from retain_pipelines.screen import CACHED, COLOUR, Screen

SWALLOWED = ("Condition evaluation failed", "Could not resolve")
CONDITION_ON = re.compile(r"inputs\.parameter_values\['([^']+)'\]")


@dataclass(frozen=True)
class Ran:
    """How a local run ended: the exit code, what every task left, which tasks came from the cache."""

    exit_code: int
    message: str
    endings: dict[str, int]
    cached: list[str]
    folder: Path


def lint(spec: Mapping[str, Any]) -> None:
    """Refuse what kfp.local would skip or mix up without a word."""
    for where, task in _tasks(spec):
        condition = task.get("triggerPolicy", {}).get("condition", "")
        for name in CONDITION_ON.findall(condition):
            source = task.get("inputs", {}).get("parameters", {}).get(name, {})
            output = source.get("taskOutputParameter", {}).get("outputParameterKey", "Output")
            if output != "Output":
                raise UsageError(
                    f"{where}: a branch on the named output '{output}' is skipped by the local runner",
                    expected="a branch on the single return value (Output)",
                    fix="return the value from the component",
                )
        if "parameterIterator" in task or "artifactIterator" in task:
            _lint_loop(where, task)


def _lint_loop(where: str, task: Mapping[str, Any]) -> None:
    """In a loop's body every parameter of another task arrives as the loop's item, so only the items may come from one."""
    items = task.get("parameterIterator", {}).get("items", {}).get("inputParameter", "")
    parameters = task.get("inputs", {}).get("parameters", {})
    taken = {name: p["taskOutputParameter"] for name, p in parameters.items() if "taskOutputParameter" in p}
    foreign = sorted(set(taken) - {items})
    if foreign or taken.get(items, {}).get("outputParameterKey", "Output") != "Output":
        raise UsageError(
            f"{where}: a loop's body takes its parameters from the wrong place in the local runner",
            got=", ".join(foreign) or "items from a named output",
            fix="put what the body needs into the loop's items, and return them as the component's single value",
        )


def _tasks(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    dags = [("root", spec["root"]), *spec.get("components", {}).items()]
    for where, component in dags:
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            yield f"{where}/{name}", task


def with_content_images(spec: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Name every image by the sources' content: the local cache then forgets a step whose code changed."""
    named = copy.deepcopy(dict(spec))
    for executor in named["deploymentSpec"]["executors"].values():
        container = executor["container"]
        container["image"] = f"{prefix}{container['image'].split(':')[0]}:{images.content_tag()}"
    return named


def certain_tasks(spec: Mapping[str, Any]) -> set[str]:
    """The pods that run whatever the gate says: no condition above them."""
    return set(_certain(spec, spec["root"]))


def _certain(spec: Mapping[str, Any], dag: Mapping[str, Any]) -> Iterator[str]:
    for name, task in dag["dag"]["tasks"].items():
        if "condition" in task.get("triggerPolicy", {}):
            continue
        component = spec["components"][task["componentRef"]["name"]]
        yield from _certain(spec, component) if "dag" in component else (name,)


def run(
    spec: Mapping[str, Any],
    arguments: Mapping[str, Any],
    folder: Path,
    *,
    finals: tuple[str, ...],
    cache: Path | None,
    show: Callable[[str], None],
    containers: Mapping[str, Any] | None = None,
) -> Ran:
    """Run a compiled pipeline in a child process; ``finals``: the tasks of which exactly one must have ended the run.

    containers: settings of retain_pipelines.containers, to run each step in its image; none: in a process of this environment.
    """
    lint(spec)
    folder.mkdir(parents=True, exist_ok=True)
    for old in (folder / "endings").glob("*.json"):
        old.unlink()
    named = with_content_images(
        spec, prefix="" if containers else "python-"
    )  # the word kfp wants to see without an image
    (folder / "pipeline.json").write_text(json.dumps(named), encoding="utf-8")
    (folder / "arguments.json").write_text(json.dumps(dict(arguments), indent=1), encoding="utf-8")
    code, log = _child([str(folder), str(cache or ""), json.dumps(containers or {})], folder, titles(spec), show)
    return _judge(spec, folder, finals, code, log)


def titles(spec: Mapping[str, Any]) -> dict[str, str]:
    """Component task name → display name."""
    return {task["componentRef"]["name"].removeprefix("comp-"): task["taskInfo"]["name"] for _, task in _tasks(spec)}


def _child(
    arguments: list[str], folder: Path, titles: Mapping[str, str], show: Callable[[str], None]
) -> tuple[int, str]:
    command = [sys.executable, "-m", "retain_pipelines.local_child", *arguments]
    environment = {
        **os.environ,
        "RETAIN_RUN_DIR": str(folder),
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        "RETAIN_TTY": terminal_name(),
    }
    lines: list[str] = []
    screen = Screen(titles)
    with (folder / "run.log").open("a", encoding="utf-8") as log, subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
    ) as child:  # fmt: skip
        try:
            for line in child.stdout or ():
                log.write(line)
                lines.append(line)
                if text := screen.line(line):
                    show(text)
        except KeyboardInterrupt:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(timeout=60)
            raise
    return child.returncode, "".join(lines)


def terminal_name() -> str:
    """The path of the terminal this process was started from, where steps draw their bars; empty: none."""
    return os.ttyname(2) if sys.stderr.isatty() else ""


def _judge(spec: Mapping[str, Any], folder: Path, finals: tuple[str, ...], code: int, log: str) -> Ran:
    endings = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted((folder / "endings").glob("*.json"))}
    cached = sorted(set(CACHED.findall(COLOUR.sub("", log))))
    codes = {name: int(ending["exit_code"]) for name, ending in endings.items()}
    ended = [name for name in finals if name in codes]
    failed = next((e for e in endings.values() if e["exit_code"]), None)
    if failed:
        return Ran(int(failed["exit_code"]), failed["message"], codes, cached, folder)
    swallowed = next((text for text in SWALLOWED if text in log), "")
    missing = certain_tasks(spec) - set(cached) - _left_outputs(folder)
    if code or swallowed or len(ended) != 1 or missing:
        reason = swallowed or (
            f"no trace of {', '.join(sorted(missing))}" if missing else f"{len(ended)} final tasks, exit {code}"
        )
        raise EnvironmentFault(
            "the local run was lost",
            where=str(folder / "run.log"),
            got=reason,
            expected=f"one of {', '.join(finals)}",
            fix="read the log, then start again with --resume",
        )
    return Ran(int(ExitCode.OK), "", codes, cached, folder)


def _left_outputs(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("artifacts/*/**/executor_output.json")}


def raise_for(ran: Ran) -> None:
    """Turn the ending of a run into the error with the same exit code."""
    if ran.exit_code:
        error = RetainError(ran.message)
        error.exit_code = ExitCode(ran.exit_code)
        raise error
