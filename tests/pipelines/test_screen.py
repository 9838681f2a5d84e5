"""What a person sees of a local run: the steps' own lines, also where two of them print at once."""

from collections.abc import Iterable

from retain_pipelines.screen import Screen


def shown(lines: Iterable[str]) -> list[str]:
    screen = Screen({"score-2": "score-candidate"})
    return [text.rstrip("\n") for line in lines if (text := screen.line(line + "\n"))]


def inputs(depth: int, step: str) -> list[str]:
    """What kfp's executor prints before a step's work."""
    said = [
        f"[KFP Executor 2026-11-22 INFO]: Loading KFP component {step}",
        "[KFP Executor 2026-11-22 INFO]: Got executor_input:",
    ]
    json = [
        "{",
        '    "inputs": {',
        '        "sources": [',
        "            {",
        '                "share": 0.5',
        "            },",
        "            -3.0e-05",
        "        ]",
        "    }",
        "}",
    ]
    return [" " * depth + line for line in (*said, *json)]


ENDED = ["12:00:01 - INFO - Task 'mix' finished with status SUCCESS", "12:00:01 - INFO - Task 'mix' outputs:", "    mixture: Dataset( name='mixture',", "-" * 80]  # fmt: skip


def test_a_step_alone() -> None:
    lines = [
        "12:00:00 - INFO - Executing task 'mix'",
        "",
        "    Found image 'retain-gpu:0.1.0-0123456789ab'",
        *inputs(4, "mix"),
    ]
    lines += [
        "    kept 12 rows",
        '      "a quotation" of the step',
        '    "another"',
        "",
        "    [KFP Executor 2026-11-22 INFO]: Wrote executor output file",
    ]
    assert shown([*lines, *ENDED]) == ["\n── mix", "kept 12 rows", '  "a quotation" of the step', '"another"']


def test_two_steps_at_once() -> None:
    """Each thread of a parallel loop prints deeper than the last one, and into the others' lines."""
    both = [line for pair in zip(inputs(8, "mix"), inputs(12, "mix"), strict=True) for line in pair]
    lines = [
        "Executing task 'mix'",
        "Executing task 'mix'",
        *both,
        "        kept 12 rows",
        "          of them 3",
        *ENDED,
    ]
    lines += [
        "Executing task 'score-2'",
        *inputs(12, "score"),
        "            mixed 5 rows",
        *ENDED,
        "            0.61 of them",
        *ENDED,
    ]
    assert [line.strip() for line in shown(lines)] == ["── mix", "── mix", "kept 12 rows", "of them 3", "── score-candidate", "mixed 5 rows", "0.61 of them"]  # fmt: skip


def test_what_comes_from_the_cache_is_said_and_the_rest_is_the_engines() -> None:
    assert shown(["Task 'score-2' cache hit", "    mixture: Dataset(", "Running pipeline: x"]) == [
        "\n── score-candidate  (unchanged: kept from an earlier run)"
    ]
