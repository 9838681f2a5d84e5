"""Short texts signed with the very key that signs the models (an EC private key in PEM form); cryptography's one house."""

import base64
import os
from pathlib import Path
from typing import Any

from retain.errors import ConfigError

KIND = "ecdsa-sha256:"


def sign(data: bytes, key: Path) -> str:
    """The signature of ``data``; the key's password, if any, is taken from RETAIN_SIGNING_PASSWORD."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return KIND + base64.b64encode(_private(key).sign(data, ec.ECDSA(hashes.SHA256()))).decode()


def holds(data: bytes, signature: str, public: str) -> bool:
    """Whether ``signature`` was made over ``data`` with the other half of ``public`` (see :func:`public_of`)."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_der_public_key(base64.b64decode(public, validate=True))
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError("this is no public key", got=public[:40], expected="the lines between BEGIN and END PUBLIC KEY of an EC key", fix="retain waive prints it")  # fmt: skip
    try:
        key.verify(base64.b64decode(signature.removeprefix(KIND)), data, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return signature.startswith(KIND)


def public_of(key: Path) -> str:
    """The public half of a private key as one line: what stands between BEGIN and END PUBLIC KEY."""
    from cryptography.hazmat.primitives import serialization as form

    data = _private(key).public_key().public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(data).decode()


def _private(key: Path) -> Any:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if not key.is_file():
        raise ConfigError("there is no signing key", got=key, fix="openssl ecparam -name prime256v1 -genkey -noout -out key.pem")  # fmt: skip
    password = os.environ.get("RETAIN_SIGNING_PASSWORD", "").encode() or None
    try:
        found = serialization.load_pem_private_key(key.read_bytes(), password)
    except (ValueError, TypeError) as error:
        found, said = None, str(error)
    else:
        said = type(found).__name__
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise ConfigError("the signing key cannot be read", where=str(key), got=said, expected="an EC private key in PEM form and its password in RETAIN_SIGNING_PASSWORD")  # fmt: skip
    return found
