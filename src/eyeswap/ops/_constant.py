"""Mark functions that torch.compile evaluates once while tracing, keeping the result as a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def constant(function: F) -> F:
    """Do the same as `torch.compiler.assume_constant_result` without importing the compiler, which takes a second."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
