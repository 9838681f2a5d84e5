"""What a version says of itself: its verdict, what that compared with, where it comes from, what was lost so far."""

import json
from collections.abc import Mapping
from typing import Any

from retain.publish import ledger, lineage
from retain.publish.versions import BASELINES, LINEAGE, VERDICT


def version_tags(said: Mapping[str, Any], node: lineage.Node) -> dict[str, str]:
    """The tags that a verdict and the lineage under it give a version."""
    return {
        VERDICT: said["verdict"], "retain.policy_digest": said["policy_digest"], "retain.attempt": str(said["attempt"]),
        BASELINES: json.dumps(said["baselines"]), LINEAGE: json.dumps(lineage.as_dict(node)),
        **lineage.tags(node), **ledger.tag(said),
    }  # fmt: skip
