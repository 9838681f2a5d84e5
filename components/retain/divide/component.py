"""KFP face of the division into domains."""

from retain.faces import on_cpu


@on_cpu
def divide(
    merge_weights: str,
    base: dict,
    sources: list,
    checks: dict,
    rehearse: dict,
    template: dict,
    mix: dict,
    score: dict,
    train: dict,
    route: dict = {},  # noqa: B006 (kfp copies it)
) -> list:
    """Name the domains of a run: one training for each name among the target sources; weights are checked here.

    Args:
        merge_weights: weight of each domain in the merge; empty: the same for all.
        base: the base model.
        sources: dataset entries with the digests of their files.
        checks: settings of validate.
        rehearse: settings of rehearse.
        template: settings of template.
        mix: settings of mix.
        score: benchmarks whose items are kept out of the training.
        train: settings of train.
        route: settings of route, checked here; for a run that routes.

    Returns:
        one entry a domain, with all that its training needs.
    """
    settings = dict(locals())
    from retain.divide.door import run

    return run(**settings)
