"""Three small pipelines, printed as one JSON object of compiled specs: a gated one, one with a trap, a slow one."""

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import yaml
from kfp import compiler, dsl

face = lambda function: dsl.component(function, base_image="retain-cpu:0", install_kfp_package=False)  # noqa: E731


@face
def work(result: dsl.Output[dsl.Dataset]) -> None:
    from retain.steps import running, say

    with running("work"):
        open(result.path, "w").close()
        say("working")


@face
def gate(data: dsl.Input[dsl.Dataset], ending: str) -> str:
    from retain.steps import running

    with running("gate"):
        return ending


@face
def end(name: str, red: bool) -> None:
    from retain.errors import Regressed
    from retain.steps import running

    with running(name):
        if red:
            raise Regressed("worse", got="3 points")


@dsl.pipeline(name="gated")
def gated(ending: str):
    decision = gate(data=work().outputs["result"], ending=ending).set_caching_options(False)
    for name, red in (("publish", False), ("stop-regressed", True)):
        with dsl.If(decision.outputs["Output"] == name, name=name):
            end(name=name, red=red).set_caching_options(False).set_display_name(name)


@face
def two_words() -> NamedTuple("Words", [("word", str), ("other", str)]):
    return ("a", "b")


@dsl.pipeline(name="named")
def named():
    words = two_words()
    with dsl.If(words.outputs["word"] == "a"):
        end(name="end", red=False)


@face
def sleep(pid_file: str) -> None:
    import os
    import time
    from pathlib import Path

    from retain.steps import running

    with running("end"):
        Path(pid_file).write_text(str(os.getpid()))
        time.sleep(120)


@dsl.pipeline(name="slow")
def slow(pid_file: str):
    sleep(pid_file=pid_file)


def spec(pipeline) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return next(iter(yaml.safe_load_all(path.read_text())))


if __name__ == "__main__":
    print(json.dumps({"gated": spec(gated), "named": spec(named), "slow": spec(slow)}))
