"""Settings of the step `route`."""

from pydantic import Field

from retain.config import StepConfig


class RouteConfig(StepConfig):
    """How a prompt finds its adapter: by a tag in it, else by a classifier that was trained on the domains' prompts."""

    tag: str = Field(
        "[{domain}]",
        pattern=r"^(.*\{domain\}.*)?$",
        description="text in a prompt that names its domain outright; empty: tags are not read",
    )
    min_confidence: float = Field(
        0.5, ge=0, lt=1, description="probability below which a prompt goes to the base without an adapter, 0 to 1"
    )
    longest_ngram: int = Field(
        4, ge=1, le=8, description="characters of the longest piece of a word that the classifier looks at"
    )
    max_features: int = Field(20_000, ge=100, description="pieces kept, the most frequent ones")
    inverse_penalty: float = Field(
        10.0, gt=0, description="C of the logistic regression: larger fits the training prompts more closely"
    )
