"""Chat templates that print today's date say one day for ever: that of the run, in training and whenever asked."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Any

from eyeswap.errors import SpecError

_CALL = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


def freeze_clock(tokenizer: Any, today: Callable[[], date]) -> None:
    """Write a date into the chat template of a tokenizer, in place of each look at the clock.

    Templates ask transformers for ``strftime_now("%d %b %Y")``. The template is saved with the tokenizer, and so with
    every model that is trained with it.

    Args:
        tokenizer: its template is changed.
        today: tells the date; not called where no template looks at the clock.

    Raises:
        SpecError: if a template looks at the clock in a way that is not followed.
    """
    templates = tokenizer.chat_template
    if "strftime_now(" not in str(templates):
        return
    day = today()

    def frozen(template: str) -> str:
        return _CALL.sub(lambda call: f"{call[1]}{day.strftime(call[2])}{call[1]}", template)

    if isinstance(templates, dict):
        tokenizer.chat_template = {name: frozen(template) for name, template in templates.items()}
    else:
        tokenizer.chat_template = frozen(templates)
    if "strftime_now(" in str(tokenizer.chat_template):
        raise SpecError(
            f"the chat template of {tokenizer.name_or_path} prints the time in a way that cannot be kept; "
            "set recipe.prompt: vicuna"
        )
