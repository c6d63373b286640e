"""One line, once a process, where the licence of weights does not allow commercial use."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)
_said: set[str] = set()


def say_non_commercial(name: str, licence: str) -> None:
    """Log that the weights of ``name`` may not be used commercially, unless the licence was named before."""
    if licence not in _said:
        _said.add(licence)
        logger.warning("the weights of %s are under %s: for non-commercial use only", name, licence)
