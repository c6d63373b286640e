"""Studies: what they ask, which runs they need, and what their results mean."""

from __future__ import annotations

from eyeswap.planning.plan import PlannedRun, plan_runs
from eyeswap.planning.spec import Arm, Study, load_study
from eyeswap.recipe import Recipe

__all__ = ["Arm", "PlannedRun", "Recipe", "Study", "load_study", "plan_runs"]
