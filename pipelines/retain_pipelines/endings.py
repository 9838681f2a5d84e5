"""The final tasks of every pipeline, and what each stands for.

The API of KFP returns no outputs: which of these tasks ran is how a run says its verdict to the outside.
"""

from retain.errors import ExitCode

STOPS = ("stop-regressed", "stop-inconclusive", "stop-integrity", "await-approval")
FINALS: dict[str, ExitCode] = {
    "publish": ExitCode.OK,
    "passed": ExitCode.OK,
    "stop-regressed": ExitCode.REGRESSED,
    "stop-inconclusive": ExitCode.INCONCLUSIVE,
    "stop-integrity": ExitCode.INTEGRITY,
    "await-approval": ExitCode.AWAITING_APPROVAL,
}
