"""Non-inferiority, equivalence, and the minimum detectable difference.

"Not significantly different" is no evidence of equality. A claim that one arm is *no worse than* another needs a
margin, the largest loss that counts as negligible, fixed before the data are seen; the claim is tested against the null
hypothesis that the loss is at least that large. Values, margins and differences share one unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import special

from eyeswap.errors import DataError
from eyeswap.statistics.resampling import LEVEL, Interval

POWER = 0.80


@dataclass(frozen=True)
class Equivalence:
    """Whether arm ``a`` is no worse than arm ``b``, and whether the two are equivalent.

    Attributes:
        margin: the largest loss that counts as negligible.
        p_no_worse: p-value of the null "a is worse than b by the margin or more".
        p_no_better: p-value of the null "a is better than b by the margin or more".
    """

    margin: float
    p_no_worse: float
    p_no_better: float

    @property
    def p_equivalent(self) -> float:
        """The p-value of the two one-sided tests together (TOST): the larger of the two."""
        return max(self.p_no_worse, self.p_no_better)


def equivalence(difference: Interval, margin: float) -> Equivalence:
    """Test "a is no worse than b by more than the margin" and its mirror image (Schuirmann 1987).

    Args:
        difference: interval of ``a - b``.
        margin: the largest negligible loss, above 0, in the unit of the difference.

    Raises:
        DataError: if the margin is not above 0.
    """
    if not (margin > 0 and math.isfinite(margin)):
        raise DataError(f"margin {margin}: must be above 0; it is the largest loss that counts as negligible")
    return Equivalence(margin, _one_sided(difference, -margin), 1 - _one_sided(difference, margin))


def minimum_detectable(difference: Interval, alpha: float = 1 - LEVEL, power: float = POWER) -> float:
    """Return the smallest true difference that a test of this precision detects with the given power.

    It is the distance at which the test rejects plus the standard error times Student's quantile of the power: what
    another study of the same size could have missed. It depends on the spread, not on the observed difference, and
    covers other training runs only if the interval does.

    Args:
        difference: interval of a difference.
        alpha: level of the two-sided test; divide it by the number of tests where there are several.
        power: probability of detecting the difference.
    """
    quantile = float(special.stdtrit(difference.degrees_of_freedom, power))
    return difference.critical_distance(alpha) + quantile * difference.standard_error


def _one_sided(difference: Interval, null: float) -> float:
    """Return the p-value of "the true difference is ``null`` or less"."""
    half = difference.p_value(null) / 2
    return half if difference.value > null else 1 - half
