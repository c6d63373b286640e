"""What a study can say beyond "different": no worse than, as good as, and the smallest difference it would see.

"Not significantly different" is no evidence of equality. A claim that one arm is *no worse than* another needs a
margin, the loss that one is ready to call none, stated before looking; the claim is tested against the null that the
loss is at least that large. Values, margins and differences share one unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import special, stats

from eyeswap.errors import DataError
from eyeswap.statistics.resampling import LEVEL, Interval

POWER = 0.80


@dataclass(frozen=True)
class Equivalence:
    """Whether arm ``a`` is no worse than arm ``b``, and whether they are as good as each other.

    Attributes:
        margin: the largest loss that counts as none.
        p_no_worse: of the null "a is worse than b by the margin or more".
        p_no_better: of the null "a is better than b by the margin or more".
    """

    margin: float
    p_no_worse: float
    p_no_better: float

    @property
    def p_equivalent(self) -> float:
        """P-value of the two one-sided tests together (TOST): the larger of the two."""
        return max(self.p_no_worse, self.p_no_better)

    def verdict(self, alpha: float = 1 - LEVEL) -> str:
        """Return ``equivalent``, ``no worse``, ``no better`` or ``not shown``."""
        if self.p_equivalent < alpha:
            return "equivalent"
        if self.p_no_worse < alpha:
            return "no worse"
        return "no better" if self.p_no_better < alpha else "not shown"


def equivalence(difference: Interval, margin: float) -> Equivalence:
    """Test "a is no worse than b by more than the margin" and its mirror image (Schuirmann 1987).

    Args:
        difference: interval of ``a - b``.
        margin: the loss that counts as none, above 0, in the unit of the difference.

    Raises:
        DataError: if the margin is not above 0.
    """
    if not (margin > 0 and math.isfinite(margin)):
        raise DataError(f"margin {margin}: must be above 0; it is the loss that you are ready to call none")
    return Equivalence(margin, _one_sided(difference, -margin), 1 - _one_sided(difference, margin))


def minimum_detectable(difference: Interval, alpha: float = 1 - LEVEL, power: float = POWER) -> float:
    """Return the smallest true difference that a test of this precision would find with the given power.

    The distance at which the test rejects, and the standard error times Student's quantile of the power beyond: what
    another study of the same size could have missed. It depends on the spread, not on the difference that was seen. Of
    other training runs it speaks only if the interval knows of their luck.

    Args:
        difference: interval of a difference.
        alpha: level of the two-sided test; divide it by the number of tests where many are made.
        power: chance to find the difference.
    """
    quantile = float(special.stdtrit(difference.degrees_of_freedom, power))
    return difference.critical_distance(alpha) + quantile * difference.standard_error


def images_needed(difference: Interval, wanted: float, alpha: float = 1 - LEVEL, power: float = POWER) -> int:
    """Return how many images like these a study needs to find a true difference ``wanted`` with the given power.

    The error over images falls with the root of their number; that of training runs does not, and is not counted.

    Raises:
        DataError: if ``wanted`` is not above 0.
    """
    if not wanted > 0:
        raise DataError(f"difference {wanted}: must be above 0")
    of_images = math.sqrt(max(difference.standard_error**2 - difference.seed_error**2, 0.0))
    quantiles = float(stats.norm.isf(alpha / 2) + stats.norm.ppf(power))
    return math.ceil(difference.num_clusters * (quantiles * of_images / wanted) ** 2)


def _one_sided(difference: Interval, null: float) -> float:
    """Return the p-value of "the true difference is ``null`` or less"."""
    half = difference.p_value(null) / 2
    return half if difference.value > null else 1 - half
