"""KFP face of the judge."""

from typing import Optional

from kfp import dsl

from retain.faces import on_cpu


@on_cpu
def judge(
    config: dict,
    base_scores: dsl.Input[dsl.Dataset],
    candidate_scores: dsl.Input[dsl.Dataset],
    base_judged: dsl.Output[dsl.Dataset],
    candidate_judged: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    dataset: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 (kfp reads this form only)
) -> None:
    """Let a language model compare the candidate's answers with the base's, where score.judge.tasks names any; otherwise nothing, in a second.

    Args:
        config: the scorer's settings; judge.* says who judges which tasks, and at what price.
        base_scores: the base's scores, with its answers.
        candidate_scores: the candidate's.
        base_judged: the base's scores with the metric win_rate (.5 everywhere).
        candidate_judged: the candidate's scores with its win rates.
        report: who won how often, and pairs to read.
        dataset: checked rows, where the test rows' answers are judged.
    """
    from retain.judge.door import path_of, run

    candidate_judged.metadata.update(
        run(config, base_scores.path, candidate_scores.path, base_judged.path, candidate_judged.path, report.path, path_of(dataset))
    )  # fmt: skip
