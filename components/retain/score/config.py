"""Settings of the step `score`."""

from typing import Literal

from pydantic import Field, field_validator

from retain.config import StepConfig

TARGET_TASK = "target"
Metric = Literal[
    "none", "exact_match", "f1", "rouge1", "rouge2", "rougeL", "bleu", "chrf", "numeric_match", "label_accuracy",
    "json_valid", "token_loss",
]  # fmt: skip


class TaskSpec(StepConfig):
    """One benchmark: an lm-eval task, group or tag by its name, or a path of a task's YAML file."""

    name: str = Field(description="lm-eval's name of the task, group or tag (verbatim), or the path of a YAML file", min_length=1)  # fmt: skip
    num_fewshot: int | Literal["task"] = Field(
        "task", description="solved examples shown before each item; `task` keeps the number the task itself states"
    )
    limit: int = Field(0, description="how many items of each leaf task, from its first on; 0 takes all", ge=0)
    seed: int = Field(1234, description="seed of the choice of few-shot examples (lm-eval's default)", ge=0)
    metric: str = Field("", description="the metric a gate decides on; empty takes the first one the task lists")

    @field_validator("num_fewshot")
    @classmethod
    def _not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("the number of few-shot examples cannot be negative")
        return value


class TargetConfig(StepConfig):
    """The metric of the user's own test rows (split `test` of the dataset), recorded as the task `target`."""

    metric: Metric = Field(
        "exact_match",
        description="what is compared between answer and reference; token_loss scores the reference itself (mean log-likelihood a token, nats) and generates nothing; none leaves the rows out",
    )
    max_new_tokens: int = Field(128, description="tokens generated for an answer, at most", ge=1)
    stop: list[str] = Field([], description="texts that end an answer (and are cut from it), beside the end-of-text token")  # fmt: skip
    limit: int = Field(0, description="how many test rows, from the first on; 0 takes all", ge=0)
    ignore_case: bool = Field(True, description="compare without regard to upper and lower case")
    ignore_punctuation: bool = Field(False, description="compare without punctuation and English articles (SQuAD's rule)")  # fmt: skip


class ScoreConfig(StepConfig):
    """What is scored, and how. The numbers depend on every field but `include_path`."""

    tasks: list[TaskSpec] = Field([], description="general benchmarks")
    include_path: list[str] = Field(
        [], description="folders with task YAML files of your own; the suite that comes along is always on the path"
    )
    target: TargetConfig = Field(TargetConfig(), description="the metric of the dataset's test rows")  # type: ignore[call-arg]
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = Field("auto", description="precision of weights and arithmetic; auto is bf16 where the device computes it")  # fmt: skip
    device: str = Field("auto", description="cpu, cuda or cuda:N; auto takes a GPU where there is one", pattern=r"^(auto|cpu|cuda(:\d+)?)$")  # fmt: skip
    batch_tokens: int = Field(0, description="tokens in one batch, padding included; 0 takes the default of the device; halved when memory runs out", ge=0)  # fmt: skip
    max_length: int = Field(0, description="context length in tokens; 0 takes the model's; longer items lose their left end and are counted", ge=0)  # fmt: skip
    attention: Literal["auto", "plain"] = Field("auto", description="auto scores all choices of an item in one pass where a self-check shows the same numbers; plain scores each choice alone")  # fmt: skip
    apply_chat_template: bool = Field(False, description="wrap benchmark prompts in the model's chat template (the target rows always are)")  # fmt: skip
    fewshot_as_multiturn: bool = Field(True, description="with the chat template: few-shot examples as turns of a chat, not as one message")  # fmt: skip
    system_text: str = Field("", description="system instruction put before every benchmark prompt")
    run_code: bool = Field(False, description="allow benchmarks that run the model's answers as programs")
