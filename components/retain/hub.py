"""Uploads to a Hugging Face hub: one commit holds exactly one model, so a reader sees a whole model or none.

The hub is that of HF_ENDPOINT, the token HF_TOKEN's (or the one ``hf auth login`` kept); neither is ever put into a message.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from retain.errors import ConfigError, EnvironmentFault

KEPT = ".gitattributes"  # the hub's own


def push(root: str, folder: Path, files: Mapping[str, str], extras: Mapping[str, bytes]) -> str:
    """Commit ``files`` of ``folder`` and ``extras`` to ``hf://org/name``; the address by commit.

    A repository that is not there yet is made private; what an earlier model left in it is removed in the same commit.
    """
    name = root.removeprefix("hf://")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ConfigError("this is no hub repository to publish to", got=root, expected="hf://org/name")
    with explained(root):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api = HfApi()
        api.create_repo(name, private=True, exist_ok=True)
        sources: dict[str, Path | bytes] = {path: folder / path for path in files}
        sources.update(extras)
        old = [path for path in api.list_repo_files(name) if path not in sources and path != KEPT]
        adding = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=source) for path, source in sources.items()]
        done = api.create_commit(name, [*adding, *map(CommitOperationDelete, old)], commit_message="retain publish")
    return f"hf://{name}@{done.oid}"


@contextmanager
def explained(where: str) -> Iterator[None]:
    """The hub's errors as ours."""
    # HTTPError: of whichever HTTP library this version of the hub's client is built on.
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled:
        raise EnvironmentFault("the hub is switched off on this machine", where=where, got="HF_HUB_OFFLINE", fix="unset it, or publish to a folder: that has a hub's layout too") from None  # fmt: skip
    except (HfHubHTTPError, HTTPError, OSError) as error:
        fix = "check the name, HF_ENDPOINT, and that HF_TOKEN may write; or publish to a folder: that has a hub's layout too"
        raise EnvironmentFault("the hub did not take this model", where=where, got=str(error).partition("\n")[0][:300], fix=fix) from error  # fmt: skip
