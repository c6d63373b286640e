"""The result in words, written from the statistics and from nothing else.

Every sentence says what is decided and what is not. Where the luck of training runs is not known, nothing is: the words
are then about these training runs on these images. Arm names stand between ``**`` so that Markdown and the page can set
them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from eyeswap.collapse.verdict import WORST_FIRST, ArmDiagnosis
from eyeswap.report.analysis.pairs import ALPHA, Comparison, rank_arms
from eyeswap.report.analysis.predictors import Predictor
from eyeswap.report.analysis.seeds import SeedSpread
from eyeswap.report.analysis.study import Arm, StudyResults
from eyeswap.report.style import MINUS, count, listed, number, p_value, percent, points, size
from eyeswap.results.scores import Score
from eyeswap.statistics.correlation import Correlation

IN_WORDS = {"vqa": "VQA", "localization": "localization", "overall": "the overall score"}
LISTED_PAIRS = 6
NAMED_LEADERS = 3
MANY_INVALID = 5.0  # percent of localization answers
FEWEST_FOR_A_RANKING = 3
NOTHING_ELSE = "Of other training runs of the same arms this says nothing."


@dataclass(frozen=True)
class Finding:
    """One sentence or two of the verdict.

    Attributes:
        kind: ``decided``, ``open`` (not decided), ``runs`` (about these training runs alone), ``warning`` (reads the
            numbers with care) or ``note``.
        text: plain text; arm names between ``**``.
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
        results: the runs.
        comparisons: of the averages, all pairs of arms.
        known: what was known of the arms beforehand.
        collapse: whether the arms' localization has collapsed.
        seeds: what is known of the luck of training runs.
        caveats: whole sentences that no reader of the headline may miss, such as a confound.
    """
    findings = []
    groups = [group for group in results.groups if group != "overall"]
    if len(results.finished_arms) < 2:
        headline = "Not decided: there are no two finished arms to compare."
    else:
        headline = " ".join([_headline(results, groups, comparisons), *caveats])
        differences = [_difference_finding(results, group, comparisons) for group in groups]
        findings += sorted(differences, key=lambda finding: finding.kind)  # decided before open
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
    """Return the arms that are not told apart from a better one in a group, the best first."""
    ranks = rank_arms([pair for pair in comparisons if pair.where == group])[group]
    first = [arm for arm in results.finished_arms if ranks[arm.name].low == 1]
    return sorted(first, key=lambda arm: ranks[arm.name].value)


def _headline(results: StudyResults, groups: list[str], comparisons: Sequence[Comparison]) -> str:
    """Say who leads where, then what is not decided, then what can be said of these runs alone."""
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
        sentences.append(f"In these runs, {'; '.join(of_runs)}. {NOTHING_ELSE}")
    return " ".join(sentences)


def _by_leaders(
    results: StudyResults, groups: list[str], comparisons: Sequence[Comparison], over_seeds: bool
) -> list[tuple[tuple[str, ...], list[str]]]:
    """Return (leading arms, groups where they do) in words; the arms are none where no two are told apart, and last."""
    found: dict[tuple[str, ...], list[str]] = {}
    for group in groups:
        pairs = [pair for pair in comparisons if pair.where == group]
        if any(pair.over_seeds for pair in pairs) is not over_seeds:
            continue
        best = {arm.name for arm in leaders(results, group, comparisons)} if _any_apart(pairs) else set()
        named = tuple(arm.name for arm in results.finished_arms if arm.name in best)
        found.setdefault(named, []).append(IN_WORDS[group])
    return sorted(found.items(), key=lambda one: not one[0])


def _any_apart(pairs: Sequence[Comparison]) -> bool:
    return any(pair.told_apart for pair in pairs)


def _in_these_runs(results: StudyResults, names: tuple[str, ...], where: str) -> str:
    """Say which runs scored higher, on the images at hand."""
    if not names:
        return f"no two arms are told apart in {where}"
    behind = [f"**{arm.name}**" for arm in results.finished_arms if arm.name not in names]
    best = [f"**{name}**" for name in names]
    if len(behind) < len(names) and len(names) > 1:
        return f"{listed(behind)} scored lower than the best on these images in {where}"
    than = "the others" if len(behind) > 1 else behind[0]
    who = listed(best) if len(best) <= NAMED_LEADERS else f"{len(best)} arms"
    return f"{who} scored higher than {than} on these images in {where}"


def _lead(results: StudyResults, names: tuple[str, ...], where: str) -> str:
    """Say who leads, or who trails where that is shorter."""
    if len(names) == 1:
        return f"**{names[0]}** leads in {where}"
    behind = [f"**{arm.name}**" for arm in results.finished_arms if arm.name not in names]
    if len(behind) < len(names):
        trail = "trails" if len(behind) == 1 else "trail"
        return f"{listed(behind)} {trail} in {where}; the other {number(len(names))} are not told apart from the best"
    best = [f"**{name}**" for name in names]
    return f"{listed(best) if len(best) <= NAMED_LEADERS else f'{len(best)} arms'} share the lead in {where}"


def _difference_finding(results: StudyResults, group: str, comparisons: Sequence[Comparison]) -> Finding:
    pairs = [pair for pair in comparisons if pair.where == group]
    over_seeds = any(pair.over_seeds for pair in pairs)
    if not _any_apart(pairs):
        return _open_finding(results, group, pairs, over_seeds)
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
    return Finding("decided" if over_seeds else "runs", f"{text} {_pair_list(pairs, over_seeds)}")


def _open_finding(results: StudyResults, group: str, pairs: Sequence[Comparison], over_seeds: bool) -> Finding:
    """Say how large a difference the study could have found where it found none."""
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
        return Finding("open", f"{text}; so few seeds and images could show no difference, however large.")
    found = f"a true difference of {percent(widest.detectable)} would have been found in four of five such studies"
    return Finding("open", f"{text}; {found}.")


def _pair_list(pairs: Sequence[Comparison], over_seeds: bool) -> str:
    """Say which pairs are told apart and which are not, or how many where a list would be too long."""
    decided, undecided = ("decided", "Not decided") if over_seeds else ("told apart", "Not told apart")
    still_open = [f"**{pair.ahead}** against **{pair.behind}**" for pair in pairs if not pair.told_apart]
    if not still_open:
        return f"Every pair of arms is {decided}."
    if len(pairs) > LISTED_PAIRS:
        return f"{len(pairs) - len(still_open)} of {len(pairs)} pairs are {decided}."
    apart: dict[str, list[str]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.value):
        if pair.told_apart:
            apart.setdefault(pair.ahead, []).append(f"**{pair.behind}** ({points(pair.value)})")
    clauses = [f"**{ahead}** over {listed(behind)}" for ahead, behind in apart.items()]
    return f"{decided[0].upper()}{decided[1:]}: {'; '.join(clauses)}. {undecided}: {listed(still_open)}."


def _equal_finding(groups: list[str], comparisons: Sequence[Comparison]) -> Finding | None:
    """Say which arms are shown to be as good as each other, which "not decided" alone never says."""
    told = []
    for group in groups:
        pairs = [pair for pair in comparisons if pair.where == group]
        equal = [f"**{pair.ahead}** and **{pair.behind}**" for pair in pairs if pair.in_words == "equivalent"]
        no_worse = [f"**{pair.behind}** than **{pair.ahead}**" for pair in pairs if pair.in_words == "no worse"]
        told += [f"as good as each other in {IN_WORDS[group]}: {_few(equal)}"] if equal else []
        told += [f"no worse in {IN_WORDS[group]}: {_few(no_worse)}"] if no_worse else []
    if not told:
        return None
    text = "; ".join(told)
    margin = comparisons[0].equivalence.margin
    return Finding("decided", f"Within {margin:g} points, {text}.")


def _prediction_finding(known: Sequence[Predictor]) -> Finding | None:
    """Answer "does ImageNet accuracy predict it?" with how far so few arms can answer."""
    accuracy = next((one for one in known if one.key == "accuracy" and len(one.values) >= FEWEST_FOR_A_RANKING), None)
    if accuracy is None:
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
        text += " Whether one predicts the other is not shown."
    return Finding("decided" if decided else "open", text)


def correlation(one: Correlation) -> str:
    """Write a rank correlation with its interval and p-value, or why there is none."""
    if one.value is None:
        return f"none ({one.why_not})"
    bounds = "" if one.low is None or one.high is None else f", 95% interval {one.low:+.2f} to {one.high:+.2f}"
    return f"{one.value:+.2f} ({p_value(one.p or 0.0)}{bounds})".replace("-", MINUS)


def _few(texts: list[str]) -> str:
    more = len(texts) - LISTED_PAIRS
    return listed(texts) if more <= 1 else f"{', '.join(texts[:LISTED_PAIRS])} and {more} more"


def _baseline_finding(results: StudyResults, groups: list[str]) -> Finding:
    below = [
        f"**{arm.name}** in {IN_WORDS[group]} (gain {_gain(arm.scores.averages[group])})"
        for group in groups
        for arm in results.finished_arms
        if not arm.scores.averages[group].beats_baseline
    ]
    if below:
        return Finding("warning", f"Not above the trivial baseline: {listed(below)}. No claim rests on these scores.")
    where = listed([IN_WORDS[group] for group in groups])
    return Finding("note", f"Every arm is above the trivial baseline in {where}.")


def _seed_finding(results: StudyResults, seeds: Mapping[str, SeedSpread]) -> Finding:
    fewest = min(len(arm.runs) for arm in results.finished_arms)
    number_of = "One seed" if fewest == 1 else f"{fewest} seeds"
    if not any(group in seeds for group in results.groups):
        return Finding(
            "warning",
            f"{number_of} an arm, and no seed s.d. stated: intervals and p-values are about these training runs on "
            "these images. The same backbone may come out elsewhere with another seed; how far, several seeds or "
            "`seed_sd` in the study would say.",
        )
    unknown = [IN_WORDS[group] for group in results.groups if group not in seeds]
    text = (
        f"{number_of} an arm. Intervals and p-values cover both the choice of test images and the luck of training "
        f"runs: {spreads_in_words(seeds, results.groups)}."
    )
    if unknown:
        text += f" Nothing is known of {listed(unknown)}, where they are about these runs alone."
    return Finding("warning" if unknown else "note", text)


def spreads_in_words(seeds: Mapping[str, SeedSpread], groups: Sequence[str]) -> str:
    """Write the seed s.d. of each average, with its degrees of freedom and its source."""
    known = {group: seeds[group] for group in groups if group in seeds}
    sizes = [f"{IN_WORDS[group].removeprefix('the ')} {spread.sd:.2g}" for group, spread in known.items()]
    first = next(iter(known.values()))
    freedom = "" if first.freedom is None else f", {first.freedom:g} degrees of freedom"
    return f"seed s.d. of {listed(sizes)} points ({first.source}{freedom})"


def _collapse_finding(collapse: Sequence[ArmDiagnosis]) -> Finding | None:
    told = []
    for verdict in WORST_FIRST[:-1]:
        names = [f"**{one.arm}**" for one in collapse if one.verdict == verdict]
        if names:
            told.append(f"{listed(names)} ({verdict})")
    if not told:
        return Finding("note", "No arm's localization has collapsed.") if collapse else None
    kind = "warning" if any(one.verdict in ("collapsed", "wrong frame") for one in collapse) else "note"
    return Finding(kind, f"Localization is not healthy in every arm: {listed(told)}.")


def _invalid_finding(results: StudyResults) -> Finding | None:
    rates = [(arm.name, arm.scores.invalid_boxes or 0.0) for arm in results.finished_arms]
    many = [f"**{name}** ({percent(rate)}%)" for name, rate in rates if rate > MANY_INVALID]
    if not many:
        return None
    return Finding(
        "warning",
        f"Localization answers without a valid box, counted as wrong: {_few(many)}. Part of their score is "
        "about format, not sight.",
    )


def _size_finding(results: StudyResults) -> Finding | None:
    """Say that arms differ in parameters or tokens, because then a difference is not one of family alone."""
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
    return Finding("note", f"The arms also differ in {listed(parts)}: a difference is one of the whole backbone.")


def _missing_finding(results: StudyResults) -> Finding | None:
    missing = [f"**{arm.name}** ({'; '.join(arm.missing)})" for arm in results.arms if arm.missing]
    return Finding("warning", f"Not in this report: {listed(missing)}.") if missing else None


def _span(pair: Comparison) -> str:
    return f"{percent(pair.value)} points (95% interval {percent(pair.low)} to {percent(pair.high)})"


def _gain(score: Score) -> str:
    return f"{points(score.gain)}, {percent(score.gain_low)} to {percent(score.gain_high)}"
