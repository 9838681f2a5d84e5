"""Settings of the step `score`."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from retain.config import StepConfig
from retain.judge.config import JudgeConfig

if TYPE_CHECKING:
    from retain.chat import ChatOptions

TARGET_TASK = "target"
Metric = Literal[
    "none", "exact_match", "f1", "rouge1", "rouge2", "rougeL", "bleu", "chrf", "numeric_match", "label_accuracy",
    "macro_f1", "json_valid", "sql_valid", "token_loss", "perplexity", "preference_accuracy",
]  # fmt: skip

# A label that is in few rows, or in none, of a part would weigh less than it does in all rows together.
MACRO_F1_ROUNDS = "macro_f1 is a measure of all test rows together, not of parts of them: set gate.looks: 1, or score.target.metric: label_accuracy"


class TaskSpec(StepConfig):
    """One benchmark: an lm-eval task, group or tag by its name, or a path of a task's YAML file."""

    name: str = Field(
        min_length=1, description="lm-eval's name of the task, group or tag (verbatim), or the path of a YAML file"
    )
    num_fewshot: int | Literal["task"] = Field(
        default="task", description="solved examples shown before each item; task keeps the number the task itself states"
    )  # fmt: skip
    fewshot: Literal["task", "first"] = Field(
        default="task",
        description="which examples: as the task draws them (anew for each item, by default), or the first ones of its pool for "
        "every item, which are then computed once for the whole task",
    )
    chat: Literal["task", "on", "off"] = Field(
        default="task",
        description="prompts through the model's chat template; task: as the task asks for (the suites safety and open: where "
        "the model has one), else as score.apply_chat_template says",
    )
    rows: str = Field(default="", description="safety and open: URI of JSON lines with prompts of your own, asked behind the shipped ones")  # fmt: skip
    limit: int = Field(default=0, ge=0, description="items of each leaf task, from its first on; 0 takes all")
    seed: int = Field(default=1234, ge=0, description="seed of the choice of few-shot examples (lm-eval's default)")
    metric: str = Field(default="", description="the metric a gate decides on; empty takes the first the task lists")

    @field_validator("num_fewshot")
    @classmethod
    def _not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("the number of few-shot examples cannot be negative")
        return value


class TargetConfig(StepConfig):
    """The metric of the user's own test rows (split `test` of the dataset), recorded as the task `target`."""

    metric: Metric = Field(
        default="exact_match",
        description="compares answer and reference; token_loss scores the reference itself (mean log-likelihood a token, "
        "nats, higher is better) and generates nothing, as perplexity does (its exponential, lower is better); macro_f1 is recorded as "
        "what each row adds to it (jackknife); preference_accuracy: the chosen answer of a pair is the likelier one a token; none leaves the rows out",
    )
    max_new_tokens: int = Field(default=128, ge=1, description="tokens generated for an answer, at most")
    stop: list[str] = Field(default=[], description="texts that end an answer, and are cut from it")
    limit: int = Field(default=0, ge=0, description="test rows, from the first on; 0 takes all")
    sql_dialect: str = Field(default="", description="for sql_valid: sqlglot's name of the dialect (postgres, sqlite, bigquery, …); empty: any of them")  # fmt: skip
    ignore_case: bool = Field(default=True, description="compare without regard to upper and lower case")
    ignore_punctuation: bool = Field(
        default=False, description="compare without punctuation and English articles (SQuAD's rule)"
    )


class ScoreConfig(StepConfig):
    """What is scored, and how."""

    tasks: list[TaskSpec] = Field(default=[], description="general benchmarks")
    include_path: list[str] = Field(
        default=[],
        description="folders with task YAML files of your own; the suites `core`, `safety` and `open` are always on the path",
    )
    target: TargetConfig = Field(default=TargetConfig(), description="the metric of the dataset's test rows")
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto", description="precision of weights and arithmetic; auto is bf16 where the device computes it"
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="cpu, cuda or cuda:N; auto takes a GPU where there is one"
    )  # fmt: skip
    batch_tokens: int = Field(
        default=0, ge=0, description="tokens in a batch, padding included; 0 takes the device's default; halved when memory runs out"
    )  # fmt: skip
    max_length: int = Field(
        default=0, ge=0, description="context in tokens; 0 takes the model's; longer items lose their left end and are counted"
    )  # fmt: skip
    attention: Literal["auto", "plain"] = Field(
        default="auto",
        description="auto scores an item's choices in one pass where a self-check gives the same numbers; plain scores each alone",
    )
    apply_chat_template: bool = Field(default=False, description="wrap benchmark prompts in the model's chat template")
    fewshot_as_multiturn: bool = Field(
        default=True, description="with the chat template: few-shot examples as turns of a chat, not as one message"
    )
    system_text: str = Field(default="", description="system instruction put before every benchmark prompt")
    template_kwargs: dict[str, Any] = Field(
        default={}, description="variables handed to the chat template; the same as the step `template` has"
    )
    prompt_completion: Literal["auto", "chat", "plain"] = Field(
        default="auto", description="prompt-completion test rows as chats or as plain text; the same as the step `template` has"
    )  # fmt: skip
    judge: JudgeConfig = Field(default=JudgeConfig(), description="a language model that compares both models' answers")
    signal_rows: int = Field(
        default=32, ge=0, description="general validation rows (part replay) on which a candidate's predictions are compared with the base's, "
        "token by token: rise of cross-entropy and KL divergence, in nats; at most 2048 tokens of them; 0: not measured",
    )  # fmt: skip
    rounds: Literal[1, 4] = Field(
        default=1, description="parts the items are scored in: 1, or the 4 looks of a gate that may end the scoring early; a recipe's gate.looks sets it"
    )  # fmt: skip
    rounds_seed: int = Field(
        default=0, ge=0, description="which items stand in which round; a recipe's gate.seed sets it"
    )
    run_code: bool = Field(default=False, description="allow benchmarks that run the model's answers as programs")

    @model_validator(mode="after")
    def _all_rows(self) -> "ScoreConfig":
        if self.rounds > 1 and self.target.metric == "macro_f1":
            raise ValueError(MACRO_F1_ROUNDS)
        return self

    def chat_options(self) -> "ChatOptions":
        """What decides the tokens of the test rows, as the step `template` has it."""
        from retain.chat import ChatOptions

        return ChatOptions(template_kwargs=self.template_kwargs, prompt_completion=self.prompt_completion)
