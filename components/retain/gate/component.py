"""KFP face of the gate."""

from kfp import dsl

from retain.faces import on_cpu


@on_cpu
def gate(
    config: dict,
    base_scores: dsl.Input[dsl.Dataset],
    candidate_scores: dsl.Input[dsl.Dataset],
    history: dsl.Input[dsl.Artifact],
    rejects: dsl.Input[dsl.Dataset],
    mixture: dsl.Input[dsl.Dataset],
    preview: dsl.Input[dsl.HTML],
    recipe: dsl.Input[dsl.Artifact],
    verdict: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> str:
    """Decide on paired per-item differences whether the candidate may be published.

    Args:
        config: the policy (recipe section gate).
        base_scores: items of the base.
        candidate_scores: the same items of the candidate.
        history: losses of the training, for the report.
        rejects: refused rows, for the report.
        mixture: what was trained on, for the report.
        preview: rendered rows with their loss mask, for the report.
        recipe: the resolved recipe, for the report.
        verdict: verdict.json, evidence.json, summary.md.
        report: one self-contained page.

    Returns:
        the final task: publish, stop-regressed, stop-inconclusive, stop-integrity or await-approval.
    """
    from retain.gate.door import run

    return run(
        config,
        base_scores.path,
        candidate_scores.path,
        verdict.path,
        report.path,
        history=history.path,
        rejects=rejects.path,
        mixture=mixture.path,
        preview=preview.path,
        recipe=recipe.path,
    )
