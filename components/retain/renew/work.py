"""The first task of a retraining: the model in service by its digest, the days of data by their addresses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retain import uris
from retain.errors import ConfigError, IntegrityError
from retain.publish import ledger
from retain.publish.versions import open_registry
from retain.renew import window
from retain.renew.config import RenewConfig
from retain.resolve import settings
from retain.tracking import home

Place = dict[str, str]  # uri, revision, digest


@dataclass(frozen=True)
class Renewal:
    """data_id and data_settings: the form's, with a file for each day. version: 0 where no model is in service yet."""

    data_id: str
    data_settings: dict[str, Any]
    base: Place
    champion: Place
    start: Place
    version: int
    missing: list[str]


def renew(config: RenewConfig, *, name: str, base_model: str, revision: str, data_id: str, data_settings: Mapping[str, Any]) -> Renewal:  # fmt: skip
    """Pin what a retraining compares with; ``name``: the registered model.

    Without a model in service the original base takes its place. IntegrityError (6) where the earlier generations came
    from another base: their losses cannot be added up.
    """
    base = _base(base_model, revision)
    _same_base(name, base)
    version = open_registry(name).by_alias(config.base_champion)
    champion = {"uri": version.source, "revision": "", "digest": version.digest} if version else base
    data, missing = _window(config, data_id, data_settings)
    start = champion if config.base_start == "champion" else base
    return Renewal(*data, base, champion, start, version.version if version else 0, missing)


def _base(uri: str, revision: str) -> Place:
    return {"uri": uri, "revision": revision, "digest": uris.resolve_base(uri, revision, home() / "bases")[1]}


def _same_base(name: str, base: Place) -> None:
    before = ledger.entries(name)
    if before and before[-1].base_digest != base["digest"]:
        raise IntegrityError(
            "the earlier generations of this model came from another base", where=name, got=base["digest"], expected=before[-1].base_digest,
            fix="retrain from that base, or publish under a new name",
        )  # fmt: skip


def _window(config: RenewConfig, data_id: str, data_settings: Mapping[str, Any]) -> tuple[tuple[str, dict[str, Any]], list[str]]:  # fmt: skip
    """((data_id, data_settings), missing addresses): the form's datasets, once for each day."""
    others = {key: value for key, value in data_settings.items() if not key.startswith("datasets.")}
    nested = settings.nest({"datasets.0.path": data_id, **{k: v for k, v in data_settings.items() if k not in others}})
    entries = nested["datasets"]
    if not isinstance(entries, list) or not all("path" in entry for entry in entries):
        raise ConfigError("data_settings: the datasets are not numbered from 0, each with a path", got=", ".join(k for k in data_settings if k not in others))  # fmt: skip
    found, missing = window.expand(entries, window.days(config.data_window_days, config.data_window_end), _there)
    flat = settings.flatten({"datasets": found})
    return (str(flat.pop("datasets.0.path")), {**others, **flat}), missing


def _there(uri: str) -> bool:
    """Whether a day has a file; a store that does not answer is an error, not a day without one."""
    try:
        uris.fetch(uri, home() / "files")
    except ConfigError:
        return False
    return True
