"""The one house of OpenSSF model-signing: a key file signs exactly the files that make the model's digest."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from retain.errors import ConfigError, IntegrityError

SIGNATURE = "model.sig"
NEED = "pip install 'model-signing' 'pyopenssl'"


def sign(folder: Path, files: Iterable[str], key: Path) -> bytes:
    """The signature (a Sigstore bundle) of ``files`` of ``folder`` with an EC private key in PEM form.

    Its password, if any, is taken from RETAIN_SIGNING_PASSWORD. ConfigError: no such key, or not one.
    """
    import tempfile

    from model_signing import hashing, signing

    if not key.is_file():
        raise ConfigError("there is no signing key", got=key, fix="openssl ecparam -name prime256v1 -genkey -noout -out key.pem")  # fmt: skip
    password: Any = (
        os.environ.get("RETAIN_SIGNING_PASSWORD", "").encode() or None
    )  # 1.1 says text, and takes only bytes
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=key, password=password)
    except (ValueError, TypeError) as error:
        raise ConfigError("the signing key cannot be read", where=str(key), got=str(error), expected="an EC private key in PEM form and its password in RETAIN_SIGNING_PASSWORD") from None  # fmt: skip
    signer.set_hashing_config(hashing.Config().set_allow_symlinks(True).set_ignored_paths(paths=_others(folder, files), ignore_git_paths=False))  # fmt: skip
    with tempfile.TemporaryDirectory() as aside:
        signer.sign(folder, Path(aside) / SIGNATURE)
        return (Path(aside) / SIGNATURE).read_bytes()


def verify(folder: Path, files: Iterable[str], public_key: Path) -> None:
    """IntegrityError unless ``model.sig`` in ``folder`` was made over exactly ``files`` with the key's other half.

    The signature holds no time: a wrong clock on either machine changes nothing.
    """
    from model_signing import verifying

    if not (folder / SIGNATURE).is_file():
        raise IntegrityError("this model is not signed", where=str(folder), expected=SIGNATURE, fix="publish it with publish.signing_key, or pull without a key")  # fmt: skip
    if not public_key.is_file():
        raise ConfigError("there is no such public key", got=public_key)
    from model_signing import hashing

    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        config.set_hashing_config(hashing.Config().set_ignored_paths(paths=_others(folder, files), ignore_git_paths=False))  # fmt: skip
        config.verify(folder, folder / SIGNATURE)
    except Exception as error:
        # The library tells a bad signature, a foreign key and a changed file by many kinds of error; each means no.
        raise IntegrityError("the signature does not hold", where=str(folder), got=str(error)[:300], fix="do not use these files: pull them again, or ask who published them") from error  # fmt: skip


def _others(folder: Path, files: Iterable[str]) -> list[Path]:
    wanted = set(files)
    return [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).as_posix() not in wanted]
