"""The settings that decide which tokens a row becomes; they are part of the digest of whatever is rendered with them."""

from typing import Any, Literal

from pydantic import Field

from retain.config import StepConfig


class RowOptions(StepConfig):
    """What a user chooses about how rows become tokens."""

    template_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="variables handed to the chat template, e.g. enable_thinking: false or date_string",
    )
    prompt_completion: Literal["auto", "chat", "plain"] = Field(
        default="auto",
        description="prompt-completion rows: auto = a chat where the tokenizer has a template, else plain text; chat and plain force one of them",
    )
    rewritten_turns: Literal["mask", "train", "refuse"] = Field(
        default="mask",
        description="assistant turns that the template shows differently once the chat goes on (reasoning models strip old thoughts): "
        "mask = no loss on them, train = loss on what is left of them, refuse = error that names the row",
    )
    classification: Literal["completion", "head"] = Field(
        default="completion",
        description="classification rows: completion = the label is written as an answer, head = the label is a class index for a classifier head",
    )


class ChatOptions(RowOptions):
    """How rows become tokens, for the model and the data at hand."""

    class_names: tuple[str, ...] = Field(
        default=(),
        description="names of the classes in the order of their indices; read only when classification is head",
    )
    encoder_decoder: bool = Field(
        default=False,
        description="the model has an encoder (T5, BART): input_ids hold the source, labels the target alone",
    )
