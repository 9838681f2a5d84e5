"""KFP face of the first task of a retraining."""

from typing import NamedTuple

from retain.faces import on_cpu


@on_cpu
def renew(
    base_model: str,
    base_champion: str,
    base_start: str,
    data_id: str,
    data_settings: dict,
    data_window_days: int,
    data_window_end: str,
    publish_name: str,
    run_settings: dict,
) -> NamedTuple("Renewed", [("data_id", str), ("data_settings", dict), ("champion", dict), ("start", dict)]):  # type: ignore[valid-type]
    """Pin the model in service by digest and the data window by its files, before a retraining begins.

    Args:
        base_model: URI of the original base.
        base_champion: alias of the model in service.
        base_start: what the training starts from, base or champion.
        data_id: URI of the training rows; a day in it ({day}) stands for every day of the window.
        data_settings: further datasets, checks, template and replay settings.
        data_window_days: days of data before data_window_end; 0: no window.
        data_window_end: YYYY-MM-DD or today.
        publish_name: registered model's name.
        run_settings: revision of the base, registry, tracking.
    """
    form = dict(locals())
    from retain.renew.door import run

    return run(form)
