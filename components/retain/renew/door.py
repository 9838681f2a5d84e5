"""What the pipeline's face and the command line share: names in, digests and addresses by the day out."""

from collections.abc import Mapping
from typing import Any

from retain.config import parse
from retain.renew.config import RenewConfig
from retain.renew.work import renew
from retain.steps import running, say


def run(form: Mapping[str, Any]) -> tuple[str, dict[str, Any], dict[str, str], dict[str, str]]:
    """data_id, data_settings, champion, start: the outputs of the first task, in the order its face names them."""
    with running("renew"):
        config = parse(RenewConfig, {name: form[name] for name in RenewConfig.model_fields})
        found = renew(
            config, name=form["publish_name"], base_model=form["base_model"], revision=dict(form["run_settings"]).get("model.revision", ""),
            data_id=form["data_id"], data_settings=form["data_settings"],
        )  # fmt: skip
        served = f"version {found.version}" if found.version else "none yet: the original base takes its place"
        say(f"champion  {found.champion['digest'][:19]}  ({served})")
        say(f"start     {found.start['digest'][:19]}  ({config.base_start})")
        for address in found.missing:
            say(f"no file   {address}")
    return found.data_id, found.data_settings, found.champion, found.start
