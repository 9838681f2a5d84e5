"""Settings of the step `template`: how rows become tokens."""

from typing import Literal

from pydantic import Field

from retain.chat import ChatOptions, RowOptions


class TemplateConfig(RowOptions):
    """Rendering with the model's own chat template."""

    max_seq_length: int = Field(
        default=2048, ge=8, description="longest row, in tokens; the model's own limit counts too"
    )
    long_rows: Literal["refuse", "truncate", "drop"] = Field(
        default="drop",
        description="rows longer than that: refuse = error that names the row, truncate = cut at the end (the answer may lose its end), drop = leave out; counted and listed",
    )
    batch_rows: int = Field(
        default=1000, ge=1, le=100_000, description="rows tokenised together; more is faster and takes more memory"
    )
    preview_rows: int = Field(
        default=4, ge=1, le=50, description="rows of each source and split that the preview shows"
    )

    def chat_options(self, *, encoder_decoder: bool, class_names: tuple[str, ...]) -> ChatOptions:
        """What decides the tokens, for the model and the data at hand."""
        chosen = self.model_dump(include=set(RowOptions.model_fields))
        return ChatOptions(**chosen, class_names=class_names, encoder_decoder=encoder_decoder)
