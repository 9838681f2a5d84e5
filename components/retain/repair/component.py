"""KFP face of the repair."""

from typing import Optional

from kfp import dsl

from retain.faces import on_gpu


@on_gpu
def repair(
    config: dict,
    merging: dict,
    base: dict,
    adapter: dsl.Input[dsl.Model],
    gated: dsl.Input[dsl.Model],
    verdict: dsl.Input[dsl.Artifact],
    base_scores: dsl.Input[dsl.Dataset],
    candidate_scores: dsl.Input[dsl.Dataset],
    dataset: dsl.Input[dsl.Dataset],
    recipe: dsl.Input[dsl.Artifact],
    model: dsl.Output[dsl.Model],
    sweep: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    history: Optional[dsl.Input[dsl.Artifact]] = None,  # noqa: UP045 (kfp reads this form only)
    rejects: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045
    mixture: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045
    preview: Optional[dsl.Input[dsl.HTML]] = None,  # noqa: UP045
) -> str:
    """After a closed gate, without training: weaken the change until it should pass, chosen on items set apart.

    Args:
        config: what is tried (recipe section repair).
        merging: precision and proof of the merge.
        base: the base model.
        adapter: the adapter, or the changed weights.
        gated: the merged candidate that the gate refused.
        verdict: the closed gate's verdict.json and evidence.json.
        base_scores: items of the base.
        candidate_scores: the same items of the refused candidate, for the report.
        dataset: checked rows; those of split test measure the target.
        recipe: the resolved recipe, for the proposal and the report.
        model: the repaired model with its proof; empty where no attempt is spent.
        sweep: repair.json and the dev scores.
        report: the report with the target-versus-general curve.
        history: losses of the training, for the report.
        rejects: refused rows, for the report.
        mixture: what was trained on, for the report.
        preview: rendered rows with their loss mask, for the report.

    Returns:
        retry, or the final task where no attempt is spent.
    """
    from retain.repair.door import path_of, run

    return run(
        config,
        merging,
        base,
        adapter.path,
        gated.path,
        verdict.path,
        base_scores.path,
        model.path,
        sweep.path,
        report.path,
        candidate_scores=candidate_scores.path,
        dataset=dataset.path,
        recipe=recipe.path,
        history=path_of(history),
        rejects=path_of(rejects),
        mixture=path_of(mixture),
        preview=path_of(preview),
    )
