"""Settings of the step `template`: how rows become tokens."""

from typing import Any, Literal

from pydantic import Field

from retain.chat import ChatOptions
from retain.config import StepConfig


class TemplateConfig(StepConfig):
    """Rendering with the model's own chat template."""

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
        description="classification rows: completion = the label is written as an answer, head = a class index for a classifier head",
    )
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
        return ChatOptions(
            template_kwargs=self.template_kwargs,
            prompt_completion=self.prompt_completion,
            rewritten_turns=self.rewritten_turns,
            classification=self.classification,
            class_names=class_names,
            encoder_decoder=encoder_decoder,
        )
