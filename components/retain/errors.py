"""Everything that can go wrong, and the exit code it ends a command with.

    RetainError                     1   crash: a fault of ours
    ├── UsageError                  2   usage or configuration
    │   ├── ConfigError             2   a key or value in a recipe, a policy or a flag
    │   └── PolicyError             2   a gate policy that cannot conclude
    ├── Regressed                   3   the gate closed: the candidate is worse
    ├── Inconclusive                4   the gate closed: too few items to tell
    ├── AwaitingApproval            5   a person has to say yes
    ├── IntegrityError              6   digests, versions, items or schemas do not match
    ├── DataRefused                 7   the input rows cannot be used
    ├── EnvironmentFault            8   disk, memory, network, a service; may be tried again
    │   └── Diverged                8   a training ran off to NaN or infinity
    └── Interrupted               130   Ctrl-C or SIGTERM

A message says what, where, what was got, what was expected and how to mend it; parts that are empty are left out, and so is
what an address holds of a user, a password or a signed query.
"""

import errno
import re
from enum import IntEnum


class ExitCode(IntEnum):
    OK = 0
    CRASH = 1
    USAGE = 2
    REGRESSED = 3
    INCONCLUSIVE = 4
    AWAITING_APPROVAL = 5
    INTEGRITY = 6
    DATA_REFUSED = 7
    ENVIRONMENT = 8
    INTERRUPTED = 130


# A password is told from a port, and may hold a slash (AWS's do); a user alone from a model's name (mlflow://model@alias) by
# the host that follows.
_USER = re.compile(r"(?<=://)(?:[^/\s@:]*:(?!\d+(?:/|$))[^\s@]*@|[^/\s@]*@(?=[^/\s]*[./:]))")
_SIGNED = re.compile(
    r"(?<=[^\s?])\?[^\s\"']*(?:signature|credential|token|secret|password|sig)=[^\s\"']*", re.IGNORECASE
)


def without_secrets(text: str) -> str:
    """``text`` without the users, passwords and signed queries of the addresses in it: fit for a log."""
    return _SIGNED.sub("", _USER.sub("", text)) if "://" in text else text


class RetainError(Exception):
    """Base of all errors shown to a user: one paragraph, never a traceback."""

    exit_code = ExitCode.CRASH

    def __init__(self, what: str, *, where: str = "", got: object = "", expected: object = "", fix: str = "") -> None:
        self.what, self.where, self.got, self.expected, self.fix = map(without_secrets, (what, where, str(got), str(expected), fix))  # fmt: skip
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [("where", self.where), ("got", self.got), ("expected", self.expected), ("fix", self.fix)]
        return "\n".join([self.what, *(f"  {name}: {text}" for name, text in parts if text)])


class UsageError(RetainError):
    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    pass


class PolicyError(UsageError):
    pass


class Regressed(RetainError):
    exit_code = ExitCode.REGRESSED


class Inconclusive(RetainError):
    exit_code = ExitCode.INCONCLUSIVE


class AwaitingApproval(RetainError):
    exit_code = ExitCode.AWAITING_APPROVAL


class IntegrityError(RetainError):
    exit_code = ExitCode.INTEGRITY


class DataRefused(RetainError):
    exit_code = ExitCode.DATA_REFUSED


class EnvironmentFault(RetainError):
    exit_code = ExitCode.ENVIRONMENT


class Diverged(EnvironmentFault):
    pass


class Interrupted(RetainError):
    exit_code = ExitCode.INTERRUPTED


DISK_IS_FULL = "No space left on device"
_REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "this place is read-only",
    errno.EACCES: "this place may not be written or read",
    errno.EMFILE: "too many files are open",
}


def refusal_of_machine(error: BaseException) -> EnvironmentFault | None:
    """The machine's own refusal (disk full, read-only, no permission) behind an error, as a clear fault; None: it is another's.

    Libraries wrap the system's error (Arrow, safetensors, SQLite), some in their own text only: the whole chain is looked through.
    """
    link: BaseException | None = error
    while link is not None:
        number = link.errno if isinstance(link, OSError) else 0
        if DISK_IS_FULL in str(link) or "disk is full" in str(link):
            number = errno.ENOSPC
        if number in _REFUSALS:
            where = str(getattr(link, "filename", "") or "")
            fix = "free some space or choose another output folder; then start again, finished steps are kept"
            return EnvironmentFault(_REFUSALS[number], where=where, got=str(link).splitlines()[0], fix=fix)
        link = link.__cause__ or link.__context__
    return None
