"""The verdict: the conclusions of a study in words, derived from the statistics alone.

Every sentence says what is decided and what is not. Where the variation between training runs is unknown, nothing is
decided, and the sentences are about these training runs on these images. Arm names are between ``**`` so that the
writers can highlight them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from eyeswap.collapse.verdict import WORST_FIRST, ArmDiagnosis
from eyeswap.report.analysis.pairs import ALPHA, Comparison, rank_arms
from eyeswap.report.analysis.predictors import Predictor
from eyeswap.report.analysis.seeds import SeedSpread, share_detecting
from eyeswap.report.analysis.study import Arm, StudyResults
from eyeswap.report.style import MINUS, count, listed, number, p_value, percent, points, size
from eyeswap.results.scores import Score
from eyeswap.statistics.correlation import Correlation

IN_WORDS = {"vqa": "VQA", "localization": "localization", "overall": "the overall score"}
MAX_LISTED_PAIRS = 6
MAX_NAMED_LEADERS = 3
MANY_INVALID = 5.0  # percent of localization answers
MIN_ARMS_TO_CORRELATE = 3
THESE_RUNS_ONLY = "This says nothing about other training runs of the same arms."


@dataclass(frozen=True)
class Finding:
    """One or two sentences of the verdict.

    Attributes:
        kind: ``decided``, ``open`` (not decided), ``runs`` (about these training runs only), ``warning`` (a caveat) or
            ``note``.
        text: plain text, with arm names between ``**``.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """A headline and the findings behind it."""

    headline: str
    findings: list[Finding]


def judge(
    results: StudyResults,
    comparisons: Sequence[Comparison],
    known: Sequence[Predictor] = (),
    collapse: Sequence[ArmDiagnosis] = (),
    seeds: Mapping[str, SeedSpread] = MappingProxyType({}),
    caveats: Sequence[str] = (),
) -> Verdict:
    """Write the verdict of a study.

    Args:
        results: the arms and their runs.
        comparisons: all pairs of arms on the averages.
        known: the predictors of scores.
        collapse: the diagnoses of the arms' localization.
        seeds: what is known about the variation between training runs.
        caveats: sentences that belong into the headline, such as a confound.
    """
    findings = []
    groups = [group for group in results.groups if group != "overall"]
    if len(results.finished_arms) < 2:
        headline = "Not decided: there are no two finished arms to compare."
    else:
        headline = " ".join([_headline(results, groups, comparisons), *caveats])
        differences = [_difference_findings(results, group, comparisons, seeds) for group in groups]
        findings += sorted((first for first, *_ in differences), key=lambda finding: finding.kind)  # decided, then open
        findings += [finding for _, *others in differences for finding in others]
        findings += filter(None, (_equal_finding(groups, comparisons), _prediction_finding(known)))
    if results.finished_arms:
        findings += [_baseline_finding(results, groups), _seed_finding(results, seeds)]
    for finding in (
        _collapse_finding(collapse),
        _invalid_finding(results),
        _size_finding(results),
        _missing_finding(results),
    ):
        if finding:
            findings.append(finding)
    return Verdict(headline, findings)


def leaders(results: StudyResults, group: str, comparisons: Sequence[Comparison]) -> list[Arm]:
    """Return the arms that are not significantly behind any other in a group, the best first."""
    ranks = rank_arms([pair for pair in comparisons if pair.where == group])[group]
    first = [arm for arm in results.finished_arms if ranks[arm.name].low == 1]
    return sorted(first, key=lambda arm: ranks[arm.name].value)


def _headline(results: StudyResults, groups: list[str], comparisons: Sequence[Comparison]) -> str:
    """Say who leads where, then what is not decided, then what holds for these runs only."""
    decided = _by_leaders(results, groups, comparisons, over_seeds=True)
    parts = [_lead(results, names, " and in ".join(where)) for names, where in decided if names]
    still_open = [group for names, where in decided if not names for group in where]
    sentences = []
    if parts:
        sentences.append(f"{'; '.join(parts + [f'{group} is not decided' for group in still_open])}.")
    elif still_open:
        sentences.append(f"Not decided: the arms are not told apart in {' or in '.join(still_open)}.")
    of_runs = [
        _in_these_runs(results, names, " and in ".join(where))
        for names, where in _by_leaders(results, groups, comparisons, over_seeds=False)
    ]
    if of_runs:
        sentences.append(f"In these runs, {'; '.join(of_runs)}. {THESE_RUNS_ONLY}")
    return " ".join(sentences)


def _by_leaders(
    results: StudyResults, groups: list[str], comparisons: Sequence[Comparison], over_seeds: bool
) -> list[tuple[tuple[str, ...], list[str]]]:
    """Return (leading arms, groups where they lead) as names; groups without a significant pair come last, no arms."""
    groups_by_leaders: dict[tuple[str, ...], list[str]] = {}
    for group in groups:
        pairs = [pair for pair in comparisons if pair.where == group]
        if any(pair.over_seeds for pair in pairs) is not over_seeds:
            continue
        best = {arm.name for arm in leaders(results, group, comparisons)} if _any_apart(pairs) else set()
        named = tuple(arm.name for arm in results.finished_arms if arm.name in best)
        groups_by_leaders.setdefault(named, []).append(IN_WORDS[group])
    return sorted(groups_by_leaders.items(), key=lambda item: not item[0])


def _any_apart(pairs: Sequence[Comparison]) -> bool:
    return any(pair.told_apart for pair in pairs)


def _in_these_runs(results: StudyResults, names: tuple[str, ...], where: str) -> str:
    """Say which runs scored higher on these images."""
    if not names:
        return f"no two arms are told apart in {where}"
    behind = [f"**{arm.name}**" for arm in results.finished_arms if arm.name not in names]
    best = [f"**{name}**" for name in names]
    if len(behind) < len(names) and len(names) > 1:
        return f"{listed(behind)} scored lower than the best on these images in {where}"
    than = "the others" if len(behind) > 1 else behind[0]
    who = listed(best) if len(best) <= MAX_NAMED_LEADERS else f"{len(best)} arms"
    return f"{who} scored higher than {than} on these images in {where}"


def _lead(results: StudyResults, names: tuple[str, ...], where: str) -> str:
    """Say who leads, or who trails if that is shorter."""
    if len(names) == 1:
        return f"**{names[0]}** leads in {where}"
    behind = [f"**{arm.name}**" for arm in results.finished_arms if arm.name not in names]
    if len(behind) < len(names):
        trail = "trails" if len(behind) == 1 else "trail"
        return f"{listed(behind)} {trail} in {where}; the other {number(len(names))} are not told apart from the best"
    best = [f"**{name}**" for name in names]
    return f"{listed(best) if len(best) <= MAX_NAMED_LEADERS else f'{len(best)} arms'} share the lead in {where}"


def _difference_findings(
    results: StudyResults, group: str, comparisons: Sequence[Comparison], seeds: Mapping[str, SeedSpread]
) -> list[Finding]:
    """Say who is ahead and which pairs are told apart; then, as a finding of its own, which are not."""
    pairs = [pair for pair in comparisons if pair.where == group]
    over_seeds = any(pair.over_seeds for pair in pairs)
    if not _any_apart(pairs):
        return [_open_finding(results, group, pairs, seeds)]
    title = IN_WORDS[group][0].upper() + IN_WORDS[group][1:]
    best = leaders(results, group, comparisons)
    scores = [f"**{arm.name}** ({percent(arm.scores.averages[group].value)}%)" for arm in best]
    if len(best) > 1:
        shared = (
            "share the lead: none is told apart from the best" if over_seeds else "are not told apart from the best"
        )
        text = f"{title}: {listed(scores)} {shared}."
    else:
        behind = min((pair for pair in pairs if pair.ahead == best[0].name), key=lambda pair: pair.value)
        with_score = f"with {percent(best[0].scores.averages[group].value)}%"
        text = f"{title}: **{best[0].name}** "
        text += (
            f"leads {with_score}, ahead of **{behind.behind}**, the next, by {_span(behind)}."
            if over_seeds
            else f"is the highest on these images {with_score}; **{behind.behind}** is next, {_span(behind)} below."
        )
    apart, still_open = _pair_lists(pairs, over_seeds)
    findings = [Finding("decided" if over_seeds else "runs", f"{text} {apart}")]
    return findings + ([Finding("open" if over_seeds else "runs", f"{title}: {still_open}")] if still_open else [])


def _open_finding(
    results: StudyResults, group: str, pairs: Sequence[Comparison], seeds: Mapping[str, SeedSpread]
) -> Finding:
    """Say how large a difference the study could have detected, where it detected none."""
    over_seeds = any(pair.over_seeds for pair in pairs)
    widest = max(pairs, key=lambda pair: pair.value)
    n = count(results.finished_arms[0].scores.averages[group].n)
    text = (
        f"{IN_WORDS[group][0].upper()}{IN_WORDS[group][1:]}: {n} questions do not tell the arms apart"
        f"{'' if over_seeds else ' in these runs'}. The largest difference, **{widest.ahead}** over "
        f"**{widest.behind}**, is {_span(widest)}"
    )
    if not over_seeds:
        return Finding("runs", f"{text}.")
    if widest.detectable is None:
        return Finding("open", f"{text}; so few seeds and images could not show any difference, however large.")
    share = share_detecting(results, seeds)
    power = f"a true difference of {percent(widest.detectable)} would be detected in {share} such studies"
    return Finding("open", f"{text}; {power}.")


def _pair_lists(pairs: Sequence[Comparison], over_seeds: bool) -> tuple[str, str]:
    """Say which pairs are told apart and which are not, or only how many if there are too many to list."""
    decided = "decided" if over_seeds else "told apart"
    still_open = [f"**{pair.ahead}** against **{pair.behind}**" for pair in pairs if not pair.told_apart]
    if not still_open:
        return f"Every pair of arms is {decided}.", ""
    if len(pairs) > MAX_LISTED_PAIRS:
        num_apart = len(pairs) - len(still_open)
        return f"{num_apart} of {len(pairs)} pairs are {decided}.", f"{len(still_open)} pairs are not {decided}."
    apart: dict[str, list[str]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.value):
        if pair.told_apart:
            apart.setdefault(pair.ahead, []).append(f"**{pair.behind}** ({points(pair.value)})")
    clauses = [f"**{ahead}** over {listed(behind)}" for ahead, behind in apart.items()]
    return f"{decided[0].upper()}{decided[1:]}: {'; '.join(clauses)}.", f"not {decided}: {listed(still_open)}."


def _equal_finding(groups: list[str], comparisons: Sequence[Comparison]) -> Finding | None:
    """Say which arms are equivalent or no worse, which "not decided" never implies."""
    claims = []
    for group in groups:
        pairs = [pair for pair in comparisons if pair.where == group]
        equal = [f"**{pair.ahead}** and **{pair.behind}**" for pair in pairs if pair.in_words == "equivalent"]
        no_worse = [f"**{pair.behind}** than **{pair.ahead}**" for pair in pairs if pair.in_words == "no worse"]
        claims += [f"as good as each other in {IN_WORDS[group]}: {_few(equal)}"] if equal else []
        claims += [f"no worse in {IN_WORDS[group]}: {_few(no_worse)}"] if no_worse else []
    if not claims:
        return None
    margin = comparisons[0].equivalence.margin
    return Finding("decided", f"Within {margin:g} points, {'; '.join(claims)}.")


def _prediction_finding(known: Sequence[Predictor]) -> Finding | None:
    """Say whether accuracy predicts the scores, as far as so few arms can show it."""
    accuracy = next((predictor for predictor in known if predictor.key == "accuracy"), None)
    if accuracy is None or len(accuracy.values) < MIN_ARMS_TO_CORRELATE:
        return None
    parts, decided = [], False
    for group, (spearman, *_) in accuracy.correlations.items():
        if group != "overall" and spearman.value is not None and spearman.p is not None:
            decided |= spearman.decided
            parts.append(f"{correlation(spearman)} with {IN_WORDS[group]}")
    if not parts:
        return None
    n = len(accuracy.values)
    text = f"Rank correlation of {accuracy.title} over {n} arms: {listed(parts)}."
    smallest = next(iter(accuracy.correlations.values()))[0].smallest_p or 0.0
    if smallest >= ALPHA:
        text += f" With {n} arms no order reaches a p-value below {smallest:.2g}, so this cannot be decided."
    elif not decided:
        text += " None of them is significant."
    return Finding("decided" if decided else "open", text)


def correlation(result: Correlation) -> str:
    """Format a rank correlation with its interval and p-value, or the reason why there is none."""
    if result.value is None:
        return f"none ({result.why_not})"
    has_interval = result.low is not None and result.high is not None
    bounds = f", 95% interval {result.low:+.2f} to {result.high:+.2f}" if has_interval else ""
    return f"{result.value:+.2f} ({p_value(result.p or 0.0)}{bounds})".replace("-", MINUS)


def _few(texts: list[str]) -> str:
    more = len(texts) - MAX_LISTED_PAIRS
    return listed(texts) if more <= 1 else f"{', '.join(texts[:MAX_LISTED_PAIRS])} and {more} more"


def _baseline_finding(results: StudyResults, groups: list[str]) -> Finding:
    below = [
        f"**{arm.name}** in {IN_WORDS[group]} (gain {_gain(arm.scores.averages[group])})"
        for group in groups
        for arm in results.finished_arms
        if not arm.scores.averages[group].beats_baseline
    ]
    if below:
        return Finding("warning", f"Not above the trivial baseline: {listed(below)}. These scores support no claim.")
    where = listed([IN_WORDS[group] for group in groups])
    return Finding("note", f"Every arm is above the trivial baseline in {where}.")


def _seed_finding(results: StudyResults, seeds: Mapping[str, SeedSpread]) -> Finding:
    fewest = min(len(arm.runs) for arm in results.finished_arms)
    number_of = "One seed" if fewest == 1 else f"{fewest} seeds"
    if not any(group in seeds for group in results.groups):
        return Finding(
            "warning",
            f"{number_of} per arm and no stated seed s.d.: intervals and p-values describe these training runs on "
            "these images. With another seed, the same backbone may score differently; several seeds, or `seed_sd` in "
            "the study file, would show by how much.",
        )
    unknown = [IN_WORDS[group] for group in results.groups if group not in seeds]
    text = (
        f"{number_of} per arm. Intervals and p-values cover both the choice of test images and the variation between "
        f"training runs: {spreads_in_words(seeds, results.groups)}."
    )
    if unknown:
        text += f" That variation is unknown for {listed(unknown)}, where they describe these runs only."
    return Finding("warning" if unknown else "note", text)


def spreads_in_words(seeds: Mapping[str, SeedSpread], groups: Sequence[str]) -> str:
    """Format the seed s.d. of each average, with its degrees of freedom and its source."""
    known = {group: seeds[group] for group in groups if group in seeds}
    sizes = [f"{IN_WORDS[group].removeprefix('the ')} {spread.sd:.2g}" for group, spread in known.items()]
    first = next(iter(known.values()))
    freedom = "" if first.freedom is None else f", {first.freedom:g} degrees of freedom"
    return f"seed s.d. of {listed(sizes)} points ({first.source}{freedom})"


def _collapse_finding(collapse: Sequence[ArmDiagnosis]) -> Finding | None:
    unhealthy = []
    for verdict in WORST_FIRST[:-1]:
        names = [f"**{diagnosis.arm}**" for diagnosis in collapse if diagnosis.verdict == verdict]
        if names:
            unhealthy.append(f"{listed(names)} ({verdict})")
    if not unhealthy:
        return Finding("note", "No arm's localization has collapsed.") if collapse else None
    kind = "warning" if any(diagnosis.verdict in ("collapsed", "wrong frame") for diagnosis in collapse) else "note"
    return Finding(kind, f"Localization is not healthy in every arm: {listed(unhealthy)}.")


def _invalid_finding(results: StudyResults) -> Finding | None:
    rates = [(arm.name, arm.scores.invalid_boxes or 0.0) for arm in results.finished_arms]
    many = [f"**{name}** ({percent(rate)}%)" for name, rate in rates if rate > MANY_INVALID]
    if not many:
        return None
    return Finding(
        "warning",
        f"Localization answers without a valid box, counted as wrong: {_few(many)}. Their scores partly measure "
        "format, not vision.",
    )


def _size_finding(results: StudyResults) -> Finding | None:
    """Say whether arms differ in parameters or tokens, because a difference is then not due to the family alone."""
    arms = [arm for arm in results.finished_arms if arm.num_parameters and arm.num_tokens]
    if len(arms) < 2:
        return None
    sizes = sorted((arm.num_parameters or 0, arm.name) for arm in arms)
    tokens = sorted((arm.num_tokens or 0, arm.name) for arm in arms)
    parts = []
    if sizes[-1][0] > 1.2 * sizes[0][0]:
        (small, name), (large, other) = sizes[0], sizes[-1]
        parts.append(f"parameters at the tap ({size(small)} in **{name}** to {size(large)} in **{other}**)")
    if tokens[-1][0] != tokens[0][0]:
        (few, name), (many, other) = tokens[0], tokens[-1]
        parts.append(f"visual tokens ({count(few)} in **{name}** to {count(many)} in **{other}**)")
    if not parts:
        return None
    return Finding("note", f"The arms also differ in {listed(parts)}: differences are between whole backbones.")


def _missing_finding(results: StudyResults) -> Finding | None:
    missing = [f"**{arm.name}** ({'; '.join(arm.missing)})" for arm in results.arms if arm.missing]
    return Finding("warning", f"Not in this report: {listed(missing)}.") if missing else None


def _span(pair: Comparison) -> str:
    return f"{percent(pair.value)} points (95% interval {percent(pair.low)} to {percent(pair.high)})"


def _gain(score: Score) -> str:
    return f"{points(score.gain)}, {percent(score.gain_low)} to {percent(score.gain_high)}"
