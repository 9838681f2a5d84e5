"""A folder that takes a model: apart from its inputs, one writer at a time, and nothing half that looks whole.

All model files of a folder count together (retain.digest), so another model's would count too: a folder that holds one is
refused, and what an earlier run of ours left there is taken away first.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from retain import digest
from retain.artifacts import check_writable, read_json
from retain.errors import ConfigError, IntegrityError
from retain.locks import alone

MARK = "unfinished.partial"
_held: set[Path] = set()  # claims of this process, which may load what it is still proving
BESIDE = ("manifest.json", "proof.json", "compression.json", "weights.json")


@contextmanager
def claimed(out: Path, inputs: Iterable[Path]) -> Iterator[None]:
    """Within: ``out`` is this process's own and holds no file of a model; the work in it ends with manifest.json.

    Left by an error it is empty again; left by a kill it holds MARK and :func:`check_finished` refuses it. Raises ConfigError
    where an input lies in it or around it, or it holds a model of somebody else's; EnvironmentFault where it cannot be
    written, or another process writes there.
    """
    _check_apart(out, inputs)
    check_writable(out)
    with alone(out):
        _check_ours(out)
        (out / MARK).touch()
        _clear(out)
        _held.add(out.resolve())
        try:
            yield
        except BaseException:
            _clear(out)
            (out / MARK).unlink(missing_ok=True)
            raise
        finally:
            _held.discard(out.resolve())
        (out / MARK).unlink()


def check_finished(folder: Path) -> None:
    """IntegrityError where a claim of this folder was killed: weights may lie there that nobody has proven."""
    if (folder / MARK).exists() and not (folder / "manifest.json").exists() and folder.resolve() not in _held:
        raise IntegrityError("this model was not finished", where=str(folder), got=MARK, expected="manifest.json", fix="run the step that writes it again")  # fmt: skip


def _check_apart(out: Path, inputs: Iterable[Path]) -> None:
    place = out.resolve()
    for path in inputs:
        other = path.resolve()
        if place.is_relative_to(other) or other.is_relative_to(place):
            raise ConfigError("a new model needs a folder of its own", got=out, where=f"an input lies in {path}", fix="choose an output folder beside its inputs")  # fmt: skip


def _check_ours(out: Path) -> None:
    ours = _listed(out)
    odd = [p for p in digest.model_files(out) if p.relative_to(out).as_posix() not in ours]
    if (out / MARK).exists():
        odd = [p for p in odd if p.parent != out]  # a killed run's, which found the folder without a model
    if odd:
        names = ", ".join(p.relative_to(out).as_posix() for p in odd[:3])
        raise ConfigError("this folder holds another model", where=str(out), got=names, expected="an empty or new folder", fix="choose another output folder, or empty this one")  # fmt: skip


def _listed(out: Path) -> set[str]:
    """The files of the finished model in ``out``, as its manifest tells them."""
    path = out / "manifest.json"
    return set(read_json(path, schema="retain.manifest/1")["files"]) if path.is_file() else set()


def _clear(out: Path) -> None:
    """Take the model away; that it is not whole any more is said first."""
    files = [*(out / name for name in BESIDE), *digest.model_files(out), *out.glob("*.partial")]
    for path in files:
        if path.name != MARK:
            path.unlink(missing_ok=True)
