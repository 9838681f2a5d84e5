"""The one house of boto3: listings, downloads, uploads that cannot overwrite, and errors in plain words.

Credentials come from where boto3 looks (environment, files, the pod's identity); the endpoint from ``AWS_ENDPOINT_URL``
(or ``MLFLOW_S3_ENDPOINT_URL``). None of them is ever put into a message.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from retain.errors import ConfigError, EnvironmentFault, IntegrityError

PART_BYTES, PARTS_AT_ONCE = 16 << 20, 4
ATTEMPTS = 6  # botocore's adaptive mode: 5xx, resets and throttling are tried again with growing pauses


def split(uri: str) -> tuple[str, str]:
    """``s3://bucket/a/b`` → ``("bucket", "a/b")``."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not re.fullmatch(r"[\w.-]{1,255}", bucket):
        raise ConfigError("this s3 address has no bucket", got=uri, expected="s3://bucket/path; keys come from the environment or from files")  # fmt: skip
    return bucket, key.strip("/")


def client() -> Any:
    import boto3
    import botocore.session
    from botocore.config import Config

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    settings = Config(
        retries={"max_attempts": ATTEMPTS, "mode": "standard"}, connect_timeout=10, read_timeout=60,
        request_checksum_calculation="when_supported", response_checksum_validation="when_supported",
    )  # fmt: skip
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    place = endpoint or os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None
    # A session of its own: boto3's default one keeps the first credentials it ever saw, rotated or not.
    session = botocore.session.get_session()
    session.register_component("data_loader", _loader())
    return boto3.session.Session(botocore_session=session).client("s3", endpoint_url=place, config=settings, region_name=region)  # fmt: skip


@cache
def _loader() -> Any:
    """What boto3 knows of all services, read once a process: a quarter of a second, which every client would take."""
    from botocore.loaders import create_loader

    return create_loader()


@contextmanager
def explained(where: str) -> Iterator[None]:
    """boto3's errors as ours: who is at fault, and what to do."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError:
        raise EnvironmentFault(
            "no S3 credentials on this machine", where=where,
            fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use the platform's identity",
        ) from None  # fmt: skip
    except ClientError as error:
        raise _named(error, where) from None
    except (BotoCoreError, Boto3Error) as error:
        raise EnvironmentFault("the S3 store did not answer as it should", where=where, got=error, fix="check AWS_ENDPOINT_URL and the network; what is finished is kept, start again when it answers") from None  # fmt: skip


def _named(error: Any, where: str) -> Exception:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return ConfigError("there is no such bucket", where=where, fix="create it, or correct the address")
    if status == 404:
        return ConfigError("there is no such object", where=where, fix="check the address")
    if code == "RequestTimeTooSkewed":
        return EnvironmentFault(
            "this machine's clock and the S3 store's differ too much",
            where=where,
            got=code,
            fix="set the clock, by NTP say; the keys are not at fault",
        )
    if status in {401, 403}:
        fix = "check the keys in the environment and the bucket's policy"
        return EnvironmentFault("the S3 store refuses these credentials", where=where, got=f"{status} {code}", fix=fix)
    return EnvironmentFault("the S3 store failed", where=where, got=f"{status} {code}", fix="try again later")


@dataclass(frozen=True)
class Object:
    key: str
    etag: str
    size: int  # bytes


def listing(uri: str) -> dict[str, Object]:
    """Relative name → the object itself, or all objects under ``uri/``; a neighbour that shares only the beginning is not."""
    bucket, key = split(uri)
    s3 = client()
    with explained(uri):
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        objects = [Object(e["Key"], e["ETag"], e["Size"]) for page in pages for e in page.get("Contents", [])]
    under = f"{key}/" if key else ""
    found = {o.key.removeprefix(under): o for o in objects if o.key.startswith(under) and not o.key.endswith("/")}
    itself = {Path(key).name: o for o in objects if o.key == key}
    return found or itself


def download(uri: str, objects: dict[str, Object], folder: Path) -> None:
    """What :func:`listing` found, into ``folder``; boto3 verifies the checksums the store has."""
    bucket, _ = split(uri)
    s3 = client()
    with explained(uri):
        for name, found in objects.items():
            target = inside(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(bucket, found.key, str(target))


def inside(folder: Path, name: str) -> Path:
    """``folder/name``; a name that climbs out of the folder is refused."""
    target = (folder / name).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise IntegrityError("a file name leaves its folder", got=name, where=str(folder))
    return target


def upload(uri: str, folder: Path, names: Iterable[str]) -> None:
    """Files of ``folder`` to ``uri/name``, large ones in parts; what is there already is left as it is (If-None-Match).

    Every request carries a checksum; what is interrupted never becomes visible.
    """
    bucket, key = split(uri)
    s3 = client()
    there = set(listing(uri))
    with explained(uri):
        for name in [name for name in names if name not in there]:
            place = {"Bucket": bucket, "Key": f"{key}/{name}".lstrip("/")}
            file = folder / name
            (_in_parts if file.stat().st_size > PART_BYTES else _at_once)(s3, place, file)


def _at_once(s3: Any, place: dict[str, str], file: Path) -> None:
    with _unless_there():
        s3.put_object(**place, Body=file.read_bytes(), IfNoneMatch="*")


def _in_parts(s3: Any, place: dict[str, str], file: Path) -> None:
    """A multipart upload (memory: 4 parts); aborted where it fails, so that no part is left to pay for."""
    upload = s3.create_multipart_upload(**place)["UploadId"]
    count = -(-file.stat().st_size // PART_BYTES)

    def send(number: int) -> dict[str, Any]:
        with file.open("rb") as stream:
            stream.seek((number - 1) * PART_BYTES)
            answer = s3.upload_part(**place, UploadId=upload, PartNumber=number, Body=stream.read(PART_BYTES))
        return {"PartNumber": number, **{k: v for k, v in answer.items() if k == "ETag" or k.startswith("Checksum")}}

    try:
        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            parts = [{k: v for k, v in part.items() if k != "ChecksumType"} for part in pool.map(send, range(1, count + 1))]  # fmt: skip
        with _unless_there():
            s3.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
    except BaseException:
        s3.abort_multipart_upload(**place, UploadId=upload)
        raise


@contextmanager
def _unless_there() -> Iterator[None]:
    """Another publisher of the same content was first: theirs is as good, and is read back all the same."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 412:
            raise


def write(uri: str, data: bytes) -> None:
    """One small object, whole or not at all; it replaces an older one."""
    bucket, key = split(uri)
    s3 = client()
    with explained(uri):
        s3.put_object(Bucket=bucket, Key=key, Body=data)


def write_all(uri: str, objects: Mapping[str, bytes]) -> None:
    """Small objects under ``uri/``, each whole or not at all; they replace older ones."""
    bucket, key = split(uri)
    s3 = client()
    with explained(uri):
        for name, data in objects.items():
            s3.put_object(Bucket=bucket, Key=f"{key}/{name}", Body=data)


def sha256(uri: str, names: Iterable[str]) -> dict[str, str]:
    """Name → hex sha256 of the object ``uri/name`` as it comes back from the store (memory: 1 MiB)."""
    bucket, key = split(uri)
    s3, found = client(), {}
    with explained(uri):
        for name in names:
            body = hashlib.sha256()
            for chunk in s3.get_object(Bucket=bucket, Key=f"{key}/{name}")["Body"].iter_chunks(1 << 20):
                body.update(chunk)
            found[name] = body.hexdigest()
    return found


def remove(uri: str, *, first: str = "") -> None:
    """Delete all objects under ``uri/``, the one named ``first`` before the others (a mark that the rest is whole)."""
    bucket, _ = split(uri)
    s3, found = client(), listing(uri)
    with explained(uri):
        for name in sorted(found, key=lambda name: name != first):
            s3.delete_object(Bucket=bucket, Key=found[name].key)
