"""Studies: what they ask, which runs they need, and what their results mean."""

from __future__ import annotations

from eyeswap.recipe import Recipe
from eyeswap.study.plan import PlannedRun, plan_runs
from eyeswap.study.spec import Arm, Study, load_study

__all__ = ["Arm", "PlannedRun", "Recipe", "Study", "load_study", "plan_runs"]
