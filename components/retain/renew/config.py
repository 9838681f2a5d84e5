"""Settings of a retraining: which model is in service, what the training starts from, and which days of data."""

from typing import Literal

from pydantic import Field

from retain.config import StepConfig


class RenewConfig(StepConfig):
    """What a scheduled run needs beside its recipe."""

    base_champion: str = Field(
        "champion", pattern=r"^[A-Za-z][\w-]{0,99}$", description="alias of the registered model that is in service"
    )
    base_start: Literal["base", "champion"] = Field(
        "base",
        description="what the training starts from: the original base with all the data of the window, or the model in service",
    )
    data_window_days: int = Field(
        0,
        ge=0,
        le=366,
        description="days of data before data_window_end; 0: addresses stand for themselves, without days",
    )
    data_window_end: str = Field(
        "today",
        pattern=r"^(today|\d{4}-\d{2}-\d{2})$",
        description="the day after the window's last one, YYYY-MM-DD, or today (UTC)",
    )
