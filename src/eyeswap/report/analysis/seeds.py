"""Variation between training runs: how much a run's average varies from seed to seed, and the source of that number.

With several seeds per arm the study itself shows it. With one seed it is known only if the study states it: as numbers,
or as the folder of another study whose runs are measured. Where it is unknown, a report is about these training runs
and no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from eyeswap.errors import DataError
from eyeswap.planning.spec import AnySeedSd, SeedSd
from eyeswap.report.analysis.study import Arm, StudyResults, gather
from eyeswap.results.averages import gather_pieces, members
from eyeswap.runs.folder import StudyFolder
from eyeswap.runs.privacy import without_paths
from eyeswap.statistics.crossed import SeedVariance, pooled_variance

_SEED_SD: TypeAdapter[SeedSd | str | None] = TypeAdapter(AnySeedSd | None)


@dataclass(frozen=True)
class SeedSpread:
    """How much a single run's score on an average or benchmark varies from seed to seed.

    Attributes:
        sd: standard deviation over seeds, percentage points.
        freedom: its degrees of freedom; None if it is taken as known.
        source: its source, as a phrase.
    """

    sd: float
    freedom: float | None
    source: str

    @property
    def variance(self) -> SeedVariance:
        """The variance for statistics of fractions."""
        freedom = float("inf") if self.freedom is None else self.freedom
        return SeedVariance((self.sd / 100) ** 2, freedom)


def paired_seeds(arms: Sequence[Arm]) -> list[int]:
    """Return the seeds that all arms have finished; arms are compared on these."""
    finished = [{run.seed for run in arm.runs} for arm in arms]
    return [run.seed for run in arms[0].runs if all(run.seed in seeds for seeds in finished)]


def share_detecting(results: StudyResults, spreads: Mapping[str, SeedSpread]) -> str:
    """Return how many such studies find a difference as large as the detectable one, as a phrase.

    The aim is four of five. It is missed where few seeds estimate the variation between runs, because that estimate
    varies itself: docs/statistics.md has the simulation.
    """
    if all(spread.freedom is None for spread in spreads.values()):
        return "four of five"
    return "about three of four" if len(paired_seeds(results.finished_arms)) > 3 else "about two of three"


def seed_spreads(results: StudyResults) -> dict[str, SeedSpread]:
    """Return the known seed spreads by average and benchmark; empty if none is known.

    Raises:
        DataError: if the study's ``seed_sd`` is invalid, or names a study from which it cannot be measured.
    """
    arms = results.finished_arms
    if arms and len(paired_seeds(arms)) > 1:
        return _measured(arms, benchmark_positions(results), "measured here")
    path = StudyFolder(results.folder).study
    try:
        stated = _SEED_SD.validate_python(results.study.get("seed_sd"))
    except ValidationError as problem:
        raise DataError(f"{path}: seed_sd: {problem.errors()[0]['msg']}") from None
    if stated is None:
        return {}
    return _elsewhere(results, stated, path) if isinstance(stated, str) else _stated(results, stated)


def with_spreads(results: StudyResults, spreads: Mapping[str, SeedSpread]) -> StudyResults:
    """Return the results with the seed spreads included in the intervals of all arms' scores."""
    variances = {where: spread.variance for where, spread in spreads.items()}
    return replace(results, arms=[replace(arm, seed_variances=variances) for arm in results.arms])


def benchmark_positions(results: StudyResults) -> dict[str, list[int]]:
    """Return the positions of the benchmarks in each average, and of each benchmark by itself."""
    averages = members([benchmark.group for benchmark in results.benchmarks])
    return averages | {benchmark.name: [i] for i, benchmark in enumerate(results.benchmarks)}


def _measured(arms: Sequence[Arm], which: Mapping[str, Sequence[int]], source: str) -> dict[str, SeedSpread]:
    spreads = {}
    for where, positions in which.items():
        values = [
            gather_pieces([[piece for i in positions for piece in arm.predictions[i].pieces()]]).values[0]
            for arm in arms
        ]
        pooled = pooled_variance(values)
        if pooled is not None:
            spreads[where] = SeedSpread(100 * pooled.variance**0.5, pooled.freedom, source)
    return spreads


def _stated(results: StudyResults, stated: SeedSd) -> dict[str, SeedSpread]:
    """Return the spreads that a study states; if it omits the overall score's, the largest that the others allow."""
    known = {group: getattr(stated, group) for group in results.groups if getattr(stated, group) is not None}
    if "overall" not in known and results.groups and set(results.groups) - {"overall"} <= set(known):
        arm = results.finished_arms[0].scores.averages
        known["overall"] = sum(arm[group].n * sd for group, sd in known.items()) / arm["overall"].n
    source = "stated in the study" + (f": {stated.source}" if stated.source else "")
    return {group: SeedSpread(sd, stated.df, source) for group, sd in known.items()}


def _elsewhere(results: StudyResults, folder: str, path: Path) -> dict[str, SeedSpread]:
    """Measure another study's runs on the averages and benchmarks that it shares with this one."""
    try:
        other = gather(Path(folder))
    except DataError as problem:
        raise DataError(f"{path}: seed_sd: {problem}") from None
    names, other_names = ([benchmark.name for benchmark in study.benchmarks] for study in (results, other))
    ours = {where: [names[i] for i in positions] for where, positions in benchmark_positions(results).items()}
    shared = {
        where: positions
        for where, positions in benchmark_positions(other).items()
        if [other_names[i] for i in positions] == ours.get(where)
    }
    spreads = _measured(other.finished_arms, shared, f"measured in {without_paths(folder)}")
    if not spreads:
        raise DataError(f"{path}: seed_sd: {folder} has no arm with two finished seeds on these benchmarks")
    return spreads
