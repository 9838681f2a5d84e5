"""What all tests of the pipelines share."""

import inspect
import sys
import traceback
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _stacks_without_source_lines() -> Iterator[None]:
    """At every setting of a task kfp asks for the whole stack with its source lines, to know one caller's name: in a process
    that has loaded as much as that of the tests, minutes in all. Without the lines the names are the same.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "stack", _stack)
        yield


def _stack(context: int = 0) -> list[inspect.FrameInfo]:
    walked = traceback.walk_stack(sys._getframe(1))
    return [inspect.FrameInfo(frame, frame.f_code.co_filename, line, frame.f_code.co_name, None, None) for frame, line in walked]  # fmt: skip
