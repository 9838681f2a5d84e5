"""Some of the items alone: the same answers as among all, few-shot examples drawn for each item included."""

from collections.abc import Sequence
from pathlib import Path

from retain.artifacts import read_scores
from retain.score.config import ScoreConfig, TaskSpec
from retain.score.run import Run
from retain.score.work import complete, score


def odd(task: str, clusters: tuple[str, ...]) -> Sequence[bool]:
    """Whole clusters, other ones in each task."""
    return [sum(f"{task}{cluster}".encode()) % 2 == 1 for cluster in clusters]


def test_chosen_items_have_the_values_they_have_among_all(
    tiny_llama: Path, tiny_tasks: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    config = ScoreConfig(
        tasks=[TaskSpec(name="tiny_choice", num_fewshot=2), TaskSpec(name="tiny_answer", num_fewshot=1)],
        include_path=[str(tiny_tasks)], dtype="fp32", target={"metric": "token_loss"},
    )  # fmt: skip
    score(config, tiny_llama, tmp_path / "all", dataset=tiny_dataset)
    complete(Run(config, tiny_llama, "candidate", keep=odd), tmp_path / "some", tiny_dataset, None)
    whole = {(r["task"], r["doc_id"], r["metric"]): r for r in read_scores(tmp_path / "all")[0].to_pylist()}
    some = {(r["task"], r["doc_id"], r["metric"]): r for r in read_scores(tmp_path / "some")[0].to_pylist()}
    wanted = {key for key, row in whole.items() if odd(row["task"], (row["cluster"],))[0]}
    assert set(some) == wanted
    assert {task for task, _, _ in some} == {"tiny_choice", "tiny_answer", "target"}
    assert 0 < len(some) < len(whole)
    for key, row in some.items():
        assert abs(row["value"] - whole[key]["value"]) < 1e-5
        assert row["output"] == whole[key]["output"]


def test_a_task_without_a_chosen_item_is_left_out(tiny_llama: Path, tiny_tasks: Path, tmp_path: Path) -> None:
    config = ScoreConfig(tasks=[TaskSpec(name="tiny_choice"), TaskSpec(name="tiny_letters")], include_path=[str(tiny_tasks)], dtype="fp32")  # fmt: skip
    run = Run(config, tiny_llama, "candidate", keep=lambda task, clusters: [task == "tiny_letters"] * len(clusters))
    assert list(complete(run, tmp_path / "scores", None, None).tasks) == ["tiny_letters"]
