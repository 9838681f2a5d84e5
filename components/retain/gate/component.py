"""KFP face of the gate."""

from typing import Optional

from kfp import dsl

from retain.faces import on_cpu


@on_cpu
def gate(
    config: dict,
    base_scores: dsl.Input[dsl.Dataset],
    candidate_scores: dsl.Input[dsl.Dataset],
    verdict: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    history: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045 (kfp reads this form only)
    rejects: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045
    mixture: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045
    preview: Optional[dsl.Input[dsl.HTML]] = None,  # noqa: UP045
    dataset: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045
    recipe: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    first: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    sweep: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045
    repairs: bool = False,
    data: str = "",
    champion_scores: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045
    role: str = "",
) -> str:
    """Decide on paired per-item differences whether the candidate may be published.

    Args:
        config: the policy (recipe section gate).
        base_scores: items of the base.
        candidate_scores: the same items of the candidate.
        verdict: verdict.json, evidence.json, summary.md.
        report: one self-contained page.
        history: losses of the training, for the report.
        rejects: refused rows, for the report.
        mixture: what was trained on, for the report.
        preview: rendered rows with their loss mask, for the report.
        dataset: checked rows, for the report's examples.
        recipe: the resolved recipe, for the report.
        first: the verdict that closed the gate, where the candidate was repaired since.
        sweep: what that repair tried, for the report.
        data: digest of what was learned, where there is no recipe; attempts are counted by it.
        repairs: the pipeline has a repair to follow a closed gate.
        champion_scores: the same items of the model in service, in a retraining.
        role: repaired or compressed, where the candidate was made of one that was gated before; empty: any other.

    Returns:
        what follows: repair, or the final task: publish, stop-regressed, stop-inconclusive, stop-integrity or await-approval.
    """
    from retain.gate.door import path_of, run

    return run(
        config,
        base_scores.path,
        candidate_scores.path,
        verdict.path,
        report.path,
        data,
        history=path_of(history),
        rejects=path_of(rejects),
        mixture=path_of(mixture),
        preview=path_of(preview),
        dataset=path_of(dataset),
        recipe=path_of(recipe),
        first=path_of(first),
        repairs=repairs,
        repair=path_of(sweep),
        champion_scores=path_of(champion_scores),
        role=role,
    )
