"""Settings of publishing: where the files go, under which name, and what the card says about licences."""

from typing import Literal

from pydantic import Field, field_validator

from retain.config import StepConfig
from retain.errors import without_secrets


class PublishConfig(StepConfig):
    """Registry and store addresses; credentials come from the environment or from files, never from here."""

    enabled: bool = Field(
        True, description="register the model when the gate passes; off: check everything, register nothing"
    )
    name: str = Field("retain-model", pattern=r"^[\w][\w .-]{0,199}$", description="name of the registered model")
    alias: str = Field(
        "candidate", pattern=r"^[A-Za-z][\w-]{0,99}$", description="alias that is moved to the new version, last of all"
    )
    store: str = Field(
        "",
        description="where the files are kept: a folder, s3://bucket/prefix, oci://registry/name or hf://org/name; empty: the folder models/ in the home folder",
    )
    promote: Literal["never", "auto"] = Field(
        "never", description="auto: the new version becomes champion too, if it passed against the present one"
    )
    signing_key: str = Field(
        "",
        description="path of an EC private key in PEM form that signs the files (OpenSSF model signing); empty: not signed; its password comes from RETAIN_SIGNING_PASSWORD",
    )
    licence: str = Field(
        "unknown", min_length=1, description="SPDX licence of the published model, as the card states it"
    )
    base_licence: str = Field("unknown", min_length=1, description="SPDX licence of the base model")
    data_licence: str = Field("unknown", min_length=1, description="SPDX licence of the training data")
    description: str = Field(
        "", max_length=4000, description="one paragraph on top of the model card: what the model is for"
    )

    @field_validator("store")
    @classmethod
    def _no_credentials(cls, store: str) -> str:
        if without_secrets(store) != store:
            raise ValueError("an address of a store holds no user, password or signature: credentials come from the environment or from files")  # fmt: skip
        return store
