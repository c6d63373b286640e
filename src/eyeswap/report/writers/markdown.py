"""The report as Markdown, for pull requests and notebooks."""

from __future__ import annotations

from eyeswap.console import visible
from eyeswap.report.analysis.analysis import Analysis
from eyeswap.report.analysis.boxes import FATE_TITLES, FATES, frames_note, frames_table
from eyeswap.report.analysis.fixed import fact_rows, recipe_rows
from eyeswap.report.analysis.study import GROUP_TITLES
from eyeswap.report.analysis.tuning import Tuning
from eyeswap.report.analysis.verdict import correlation
from eyeswap.report.style import BELOW, BELOW_NOTE, DASH, cost, count, detectable, p_value, percent, points, size
from eyeswap.results.scores import Score


def markdown(analysis: Analysis) -> str:
    """Return the report as Markdown, the verdict first."""
    results, verdict = analysis.results, analysis.verdict
    parts = [f"# {' '.join(results.question.split())}", f"Study `{results.name}`.", f"**Verdict.** {verdict.headline}"]
    parts.append("\n".join(f"- {finding.text}" for finding in verdict.findings))
    if results.finished_arms:
        parts += ["## Scores", _scores(analysis), "## Costs", _costs(analysis)]
    if analysis.tuning is not None:
        parts += ["## Does the ranking survive tuning?", _tuning(analysis.tuning)]
    if analysis.averages:
        parts += ["## Pairs of arms", _pairs(analysis)]
        parts += ["## What predicts the scores", _predictors(analysis)]
    if analysis.grounding:
        parts += ["## Where boxes go wrong", _grounding(analysis)]
    if analysis.collapse:
        parts += ["## Has localization collapsed?", _collapse(analysis)]
    if analysis.published:
        parts += ["## Comparison with the published study", _published(analysis)]
    parts += ["## Held fixed", _fixed(analysis)]
    return _inert("\n\n".join(parts)) + "\n"


def _inert(text: str) -> str:
    """Return Markdown in which no user-supplied text acts as an HTML tag, a link or an image, or hides."""
    return visible(text).replace("<", "&lt;").replace("](", "]\\(")


def pipes(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _scores(analysis: Analysis) -> str:
    results = analysis.results
    first = results.finished_arms[0].scores
    columns = {group: GROUP_TITLES[group] for group in results.groups} | {
        benchmark.name: benchmark.title for benchmark in results.benchmarks
    }
    counts = [score.n for score in first.averages.values()] + [entry.score.n for entry in results.benchmarks]
    rows = [["n", *map(count, counts), "", "", ""]]
    for arm in results.finished_arms:
        scores = arm.scores.averages | {name: entry.score for name, entry in arm.scores.benchmarks.items()}
        cells = [_score(analysis, name, arm.name, scores[name]) for name in columns]
        invalid, tokens = arm.scores.invalid_boxes, arm.num_tokens
        backbone = ["" if invalid is None else percent(invalid), size(arm.num_parameters)]
        rows.append([arm.name, *cells, *backbone, DASH if tokens is None else count(tokens)])
    baselines = [score.baseline for score in first.averages.values()] + [
        entry.score.baseline for entry in results.benchmarks
    ]
    rows.append(["trivial baseline", *map(percent, baselines), "", "", ""])
    note = f"Percent, with 95% intervals over {analysis.covered}."
    if analysis.averages:
        note += " Bold: best; italic: not told apart from the best after Holm's correction."
    table = pipes(["arm", *columns.values(), "invalid boxes", "parameters at tap", "tokens"], rows)
    return f"{table}\n\n{note} {BELOW} {BELOW_NOTE}. {frames_note(analysis.grounding)}".rstrip()


def _score(analysis: Analysis, where: str, arm: str, score: Score) -> str:
    value = percent(score.value) + ("" if score.beats_baseline else BELOW)
    emphasis = {"best": "**", "level": "*", "behind": ""}[analysis.standing(where, arm)]
    rank = analysis.ranks.get(where, {}).get(arm)
    place = f", rank {rank.value}" if rank else ""
    if rank and rank.low != rank.high:
        place += f" ({rank.low}{DASH}{rank.high})"
    return f"{emphasis}{value}{emphasis} [{percent(score.low)}, {percent(score.high)}]{place}"


def _costs(analysis: Analysis) -> str:
    rows = [
        [arm.name, arm.objective]
        + [cost(kind.key, kind.values[arm.name]) if arm.name in kind.values else DASH for kind in analysis.budgets]
        for arm in analysis.results.finished_arms
    ]
    notes = " ".join(f"{kind.title[0].upper()}{kind.title[1:]}: {kind.note}." for kind in analysis.budgets if kind.note)
    return f"{pipes(['arm', 'objective', *(kind.title for kind in analysis.budgets)], rows)}\n\n{notes}"


def _tuning(tuning: Tuning) -> str:
    rows = [
        [
            arm.name,
            "; ".join(f"{trial.lr:g}: {percent(trial.score)}" for trial in arm.trials),
            f"{arm.lr:g}",
            f"{percent(arm.matched.value)} [{percent(arm.matched.low)}, {percent(arm.matched.high)}]",
            "as matched"
            if arm.is_same
            else f"{percent(arm.tuned.value)} [{percent(arm.tuned.low)}, {percent(arm.tuned.high)}]",
        ]
        for arm in tuning.arms
    ]
    table = pipes(["arm", "trials: learning rate, %", "chosen", "matched, %", "tuned, %"], rows)
    note = f"Overall averages. Every arm had the same trials; what was chosen is {tuning.rule}."
    return f"{tuning.in_words}\n\n{table}\n\n{note}"


def _pairs(analysis: Analysis) -> str:
    rows = [
        [
            GROUP_TITLES[pair.where],
            f"{pair.ahead} over {pair.behind}",
            f"{points(pair.value)} [{points(pair.low)}, {points(pair.high)}]",
            p_value(pair.p),
            detectable(pair.detectable),
            pair.in_words,
        ]
        for pair in analysis.averages
    ]
    note = (
        f"Points, with 95% intervals of the paired difference over {analysis.covered}; p-values are adjusted by Holm "
        f"over this table. Detectable: the true difference that {analysis.share_detecting} such studies would detect. "
        f"Equivalent, no worse: with a margin of {analysis.margin:g} points."
    )
    return f"{pipes(['average', 'pair', 'difference', 'p', 'detectable', 'result'], rows)}\n\n{note}"


def _predictors(analysis: Analysis) -> str:
    rows = [
        [predictor.title, str(len(predictor.values)), GROUP_TITLES[group], correlation(spearman), correlation(kendall)]
        for predictor in analysis.predictors
        for group, (spearman, kendall) in predictor.correlations.items()
    ]
    return pipes(["predictor", "arms", "average", "Spearman", "Kendall"], rows)


def _grounding(analysis: Analysis) -> str:
    rows = []
    for grounding in analysis.grounding:
        reachable = DASH if grounding.ceiling is None else percent(grounding.ceiling.reachable)
        shares = (percent(grounding.shares[fate]) for fate in FATES)
        rows.append([grounding.title, grounding.arm, *shares, reachable])
    heads = ["benchmark", "arm", *(FATE_TITLES[fate] for fate in FATES), "reachable with whole tokens"]
    return f"{pipes(heads, rows)}\n\nPercent of all answers.\n\n{_in_frames(analysis)}"


def _in_frames(analysis: Analysis) -> str:
    head, rows = frames_table(analysis.grounding)
    return f"{pipes(head, rows)}\n\nThe same answers scored in every box frame, percent; * is the frame that counts."


def _collapse(analysis: Analysis) -> str:
    return "\n".join(f"- {arm.arm}: **{arm.verdict}**. {'; '.join(arm.reasons)}." for arm in analysis.collapse)


def _published(analysis: Analysis) -> str:
    rows = [
        [
            ours.arm,
            GROUP_TITLES[ours.group],
            f"{percent(ours.value)} [{percent(ours.low)}, {percent(ours.high)}]",
            f"{ours.published:.2f}",
            ours.in_words + (f" ({', '.join(ours.differs)})" if ours.differs else ""),
            f"{ours.result.model}, {ours.result.source}",
        ]
        for ours in analysis.published
    ]
    note = "Our averages use the published weights of the benchmarks; published values are from one seed."
    return f"{pipes(['arm', 'average', 'ours', 'published', 'published lies', 'source'], rows)}\n\n{note}"


def _fixed(analysis: Analysis) -> str:
    recipe = "Recipe:\n\n" + "\n".join(f"- `{field}`: {value}" for field, value in recipe_rows(analysis.results))
    if analysis.audit is None:
        return recipe
    rows = [
        [row.title, row.verdict, "; ".join(f"{value} ({runs})" if runs else value for value, runs in row.values)]
        for row in fact_rows(analysis.audit)
    ]
    warnings = "\n".join(f"- {warning.severity}: {warning} ({warning.docs})" for warning in analysis.audit.warnings)
    return "\n\n".join(part for part in (pipes(["property", "runs", "value"], rows), warnings, recipe) if part)
