"""Settings of the step `judge`."""

from pydantic import Field, model_validator

from retain.endpoint import EndpointConfig

CRITERIA = "how well it does what was asked: correct, complete, to the point, and well written"


class JudgeConfig(EndpointConfig):
    """A language model that compares the candidate's answers with the base's, question by question."""

    tasks: list[str] = Field(
        default=[],
        description="scored benchmarks whose generated answers are compared; target: the dataset's test rows; empty: nothing is judged",
    )
    api_key_env: str = Field(
        default="RETAIN_JUDGE_API_KEY", pattern=r"^[A-Z_][A-Z0-9_]*$", description="environment variable that holds the key; the key itself is never a setting"
    )  # fmt: skip
    criteria: str = Field(default=CRITERIA, min_length=1, description="what the judge is told to weigh")
    limit: int = Field(default=0, ge=0, description="questions of each task, from the first on; 0 takes all")
    price_per_1k_input: float = Field(default=0.0, ge=0, description="price of 1000 tokens read by the judge, in your currency")  # fmt: skip
    price_per_1k_output: float = Field(default=0.0, ge=0, description="price of 1000 tokens written by the judge")
    max_cost: float = Field(default=0.0, ge=0, description="the step stops when its new requests have cost more; what was answered is kept; 0: no bound")  # fmt: skip
    max_unreadable_share: float = Field(
        default=0.05, ge=0, le=1, description="share of replies without a verdict (they count as ties) above which the step fails"
    )  # fmt: skip

    @model_validator(mode="after")
    def _somewhere_to_ask(self) -> "JudgeConfig":
        if self.tasks and not (self.endpoint and self.model):
            raise ValueError("judge.tasks needs judge.endpoint and judge.model")
        if self.max_cost and not (self.price_per_1k_input or self.price_per_1k_output):
            raise ValueError("judge.max_cost needs judge.price_per_1k_input or judge.price_per_1k_output")
        return self

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Price of so many tokens."""
        return (tokens_in * self.price_per_1k_input + tokens_out * self.price_per_1k_output) / 1000
