"""Is training still sound? A loss that is not a number, or explodes, ends the run at once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

_RECENT = 100  # steps
_JUMP = 4.0


def complaint(loss: float, grad_norm: float, earlier: Sequence[float], vocabulary: int) -> str | None:
    """Return what is wrong with a step, or None.

    A model that knows nothing and says so has a loss of ``ln(vocabulary)``. Twice that is worse than knowing nothing.
    Half of it is an explosion if it is also four times the median of the last 100 losses.

    Args:
        loss: of the step.
        grad_norm: of the step, before clipping.
        earlier: losses of the steps before.
        vocabulary: number of tokens that the model chooses from.
    """
    if not math.isfinite(loss):
        return f"loss is {loss}"
    if not math.isfinite(grad_norm):
        return f"gradient norm is {grad_norm}"
    ignorance = math.log(vocabulary)
    if loss > 2 * ignorance:
        return f"loss exploded to {loss:.2f}, twice that of a model that knows nothing"
    if len(earlier) >= _RECENT and loss > ignorance / 2:
        usual = statistics.median(earlier[-_RECENT:])
        if loss > _JUMP * usual:
            return f"loss exploded from {usual:.3f} to {loss:.2f}"
    return None
