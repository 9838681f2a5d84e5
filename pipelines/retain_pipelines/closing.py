"""Every pipeline ends in the task ``close``, whatever happened before it."""

import functools
from collections.abc import Callable
from typing import Any

from kfp import dsl
from kfp.dsl.pipeline_context import Pipeline

from retain.close.component import close


def closed(recipe: Callable[..., None]) -> Callable[..., None]:
    """The tasks of ``recipe`` inside an exit handler: ``@dsl.pipeline(…)`` above ``@closed``."""

    @functools.wraps(recipe)
    def inside(*arguments: Any, **named: Any) -> None:
        name = Pipeline.get_default_pipeline().name
        ending = close(pipeline=name).set_caching_options(False)
        with dsl.ExitHandler(ending, name="steps"):
            recipe(*arguments, **named)

    return inside
