"""Settings of the look at a server."""

from typing import Any

from pydantic import Field

from retain.endpoint import EndpointConfig


class ParityConfig(EndpointConfig):
    """Where the model is served, and how it is asked."""

    api_key_env: str = Field(
        default="RETAIN_SERVER_API_KEY", pattern=r"^[A-Z_][A-Z0-9_]*$", description="environment variable that holds the key; the key itself is never a setting"
    )  # fmt: skip
    max_tokens: int = Field(default=1, ge=1, description="tokens of one reply: only the prompt's tokens are counted")
    template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="variables of the chat template, as in the recipe; the server gets them as chat_template_kwargs"
    )  # fmt: skip
