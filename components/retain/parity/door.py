"""What the command line opens: a model and the address that serves it in, the comparison out."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retain import uris
from retain.config import parse
from retain.parity.config import ParityConfig
from retain.parity.work import Compared, look, refuse_unless_same
from retain.steps import running, say
from retain.tracking import home


def run(settings: Mapping[str, Any], model: str, chats: str = "") -> dict[str, Any]:
    """Compare, show the table, and end with IntegrityError (6) where one chat differs."""
    with running("parity"):
        config = parse(ParityConfig, settings, where="parity")
        folder, digest = uris.resolve_base(model, "", home() / "bases")
        found = look(config, folder, Path(chats) if chats else None)
        say(f"{'chat':<28}{'tokens here':>12}{'server':>9}")
        for row in found.compared:
            say(f"{row.name:<28}{row.here or '–':>12}{row.there or '–':>9}  {_word(row)}")
        refuse_unless_same(found, config.endpoint)
        say(f"the server reads chats as the model was gated: template {found.template_digest}")
    return {"schema": "retain.served/1", "model_digest": digest, "endpoint": config.endpoint, "same": found.same, **asdict(found)}  # fmt: skip


def _word(row: Compared) -> str:
    if not row.here:
        return "the template takes no such chat"
    return "same" if row.same else "OTHER"
