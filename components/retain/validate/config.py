"""Settings of the step `validate`: which rows come in, and what makes one of them unfit for training."""

from typing import Literal

from pydantic import Field, field_validator

from retain.config import StepConfig, nearest

Format = Literal[
    "auto", "messages", "sharegpt", "alpaca", "prompt_completion", "text", "preference", "kto", "classification", "seq2seq", "tokenized"
]  # fmt: skip


class DatasetSpec(StepConfig):
    """One file of rows, what it is for, and how its columns become a known shape."""

    path: str = Field(
        description="URI of the file: a path, package://, s3://, hf://, https:// …; JSONL, JSON, CSV, Parquet or text, plain, .gz or .zst"
    )
    name: str = Field("", description="source name kept with every row; empty: the file's name")
    format: Format = Field("auto", description="shape of the rows; auto: told from the columns and echoed")
    part: Literal["target", "replay", "safety"] = Field(
        "target",
        description="target: the task to learn; replay: general rows against forgetting; safety: refusals to keep",
    )
    split: Literal["train", "validation", "test"] = Field(
        "train", description="what the rows serve as; test rows are for the target metric and never trained on"
    )
    weight: float = Field(1.0, gt=0, description="sampling weight of this source among the others of its part")
    map: dict[str, str] = Field(
        default_factory=dict,
        description="new columns from old ones, e.g. {prompt: 'Sentiment of: {sentence}', completion: '{label}'}",
    )
    split_at: str = Field(
        "",
        description="cut the text column here: what stands before (with the mark) is the prompt, the rest the completion",
    )
    where: dict[str, str] = Field(
        default_factory=dict, description="keep only rows whose column equals this value (as text)"
    )
    rows: str = Field("", pattern=r"^(\d*:\d*)?$", description="keep only this slice of the kept rows, e.g. 0:2700")
    validation_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of these rows set apart for the validation loss, chosen by a hash of the row",
    )


Act = Literal["reject", "warn", "off"]
PiiKind = Literal["email", "phone", "card", "iban", "national_id", "ip"]


class ValidateConfig(StepConfig):
    """What makes a row unfit, and how many unfit rows stop the run.

    Every check is `reject` (the row goes to rejects/), `warn` (it stays and is counted) or `off`. Rows that cannot be read
    or have no known shape are always rejected.
    """

    max_rejected_share: float = Field(
        0.1, ge=0, le=1, description="share of a source's rows that may be rejected before the run stops, 0 to 1"
    )
    max_share: dict[str, float] = Field(
        default_factory=dict,
        description="the same for single reasons, e.g. {duplicate: 0.3, pii: 0}; warnings count too",
    )
    min_rows: int = Field(
        8, ge=0, description="fewest target rows (train and validation) that are worth a training, rows"
    )
    min_test_rows: int = Field(
        200,
        ge=0,
        description="fewer target test rows than this are pointed out: too few to see a gain, rows; 0 = never",
    )
    max_tokens: int = Field(
        0,
        ge=0,
        description="longest row, tokens in the base's template; 0 = the model's own limit. Raw text is exempt: it is cut when it is packed",
    )
    text_chars: int = Field(
        4000,
        ge=0,
        description="a plain text file is cut at blank lines into rows of about this many characters; 0 = one row",
    )
    pii_kinds: list[PiiKind] = Field(
        default=["email", "phone", "card", "iban", "national_id"], description="what counts as personal data"
    )
    near_duplicate_similarity: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity of word 5-grams from which two rows are near duplicates"
    )
    examples: int = Field(
        3, ge=0, le=50, description="rows shown for each reason on the page, personal data and secrets masked; 0 = none"
    )

    nan: Act = Field("reject", description="NaN or infinity in any column")
    unknown_role: Act = Field(
        "reject", description="a turn by somebody who is not system, developer, user, assistant or tool"
    )
    role_order: Act = Field(
        "reject", description="turns that do not alternate; system first, tool turns only after a call"
    )
    no_answer: Act = Field("reject", description="the last turn is not the assistant's, or no turn carries loss")
    empty_answer: Act = Field("reject", description="an answer of nothing but white space")
    empty_prompt: Act = Field("reject", description="a user turn or prompt of nothing but white space")
    same_answers: Act = Field("reject", description="a preference whose chosen and rejected answers are the same")
    unrenderable: Act = Field("reject", description="a chat that the base's template cannot render")
    too_long: Act = Field("reject", description="more tokens than max_tokens")
    duplicate: Act = Field("reject", description="the same row again, whatever its id")
    leakage: Act = Field("reject", description="a train row whose prompt is also in a test or validation split")
    near_duplicate: Act = Field(
        "off", description="almost the same row again (MinHash); costs about 1 kB of memory a row"
    )
    conflicting_answers: Act = Field("warn", description="the same prompt with another answer")
    encoding: Act = Field("reject", description="text damaged by a wrong decoding: replacement characters, mojibake")
    control_characters: Act = Field(
        "reject", description="invisible control characters (not tab, line feed, form feed, U+0085)"
    )
    pii: Act = Field("reject", description="personal data, see pii_kinds")
    secrets: Act = Field("reject", description="keys, tokens, passwords in addresses, private keys")
    truncated_answer: Act = Field(
        "warn",
        description="a long answer that breaks off in mid-sentence or inside a code block, or a finish_reason of length",
    )
    refusal: Act = Field(
        "warn", description="an answer that refuses; not looked for in safety rows, where it is wanted"
    )

    @field_validator("max_share")
    @classmethod
    def _known_reasons(cls, shares: dict[str, float]) -> dict[str, float]:
        for reason, share in shares.items():
            if reason not in REASONS:
                near = nearest(reason, list(REASONS))
                raise ValueError(
                    f"no such reason: '{reason}'"
                    + (f"; did you mean '{near}'?" if near else f"; known: {', '.join(REASONS)}")
                )
            if not 0 <= share <= 1:
                raise ValueError(f"{reason}: a share lies between 0 and 1")
        return shares

    def act(self, reason: str) -> Act:
        """What happens to a row with this reason."""
        return "reject" if reason in UNREADABLE else getattr(self, reason)


# Rows for which there is no other way than out.
UNREADABLE = ("not_json", "not_utf8", "schema", "other_shape")
CHECKS = (
    "nan", "unknown_role", "role_order", "no_answer", "empty_answer", "empty_prompt", "same_answers", "unrenderable", "too_long", "duplicate", "leakage",
    "near_duplicate", "conflicting_answers", "encoding", "control_characters", "pii", "secrets", "truncated_answer", "refusal",
)  # fmt: skip
REASONS = (*UNREADABLE, *CHECKS)
