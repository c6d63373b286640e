"""Findings about the design of a study: seeds, matched quantities, positions, prompts, box frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from eyeswap.audit.finding import Finding, Records, Severity, runs_of
from eyeswap.evaluation.frames import View, in_words
from eyeswap.planning.estimate import listed
from eyeswap.runs.record import RunRecord

PARAMETER_TOLERANCE = 0.10


def single_seed(records: Records) -> Iterator[Finding]:
    """Find studies with a single training seed, whose variation between training runs is unknown."""
    seeds = sorted({record.seed for record in records.values()})
    if len(seeds) == 1:
        yield Finding(
            "single-seed",
            "warning",
            tuple(records),
            "one seed: the intervals do not cover variation between training runs",
            {"seeds": seeds},
            together=True,
        )


def unequal_tokens(records: Records) -> Iterator[Finding]:
    """Find unequal numbers of visual tokens; a warning if the study declares them matched."""
    counts = _by_arm(records, lambda record: record.num_visual_tokens)
    if len(set(counts.values())) < 2:
        return
    claimed = _claims(records, "tokens")
    words = "arms declared matched in tokens" if claimed else "arms"
    yield Finding(
        "unequal-tokens",
        "warning" if claimed else "note",
        runs_of(records, counts),
        f"{words} pass unequal numbers of visual tokens to the LLM: {listed(counts)}",
        {"tokens": counts, "called_matched": claimed},
        together=True,
    )


def unequal_sizes(records: Records) -> Iterator[Finding]:
    """Find backbones that differ in size by more than a tenth; a warning if the study declares them matched."""
    sizes = _by_arm(records, lambda record: record.backbone.num_parameters or None)
    if not sizes or max(sizes.values()) <= (1 + PARAMETER_TOLERANCE) * min(sizes.values()):
        return
    claimed = _claims(records, "parameters")
    words = "backbones declared matched in parameters" if claimed else "backbone sizes"
    yield Finding(
        "unequal-sizes",
        "warning" if claimed else "note",
        runs_of(records, sizes),
        f"{words} differ by more than {PARAMETER_TOLERANCE:.0%}: {listed(sizes)} parameters",
        {"parameters": sizes, "called_matched": claimed},
        together=True,
    )


def beyond_positions(records: Records) -> Iterator[Finding]:
    """Find visual tokens that, alone or with the longest text, need more positions than the LLM was trained for."""
    positions = _by_arm(records, lambda record: record.observed.llm_positions)
    counts = _by_arm(records, lambda record: record.num_visual_tokens)
    texts = _by_arm(records, lambda record: (record.recipe or {}).get("max_text_tokens"))
    over: dict[str, int] = {}
    tight: dict[str, int] = {}
    for arm, limit in positions.items():
        tokens = counts.get(arm, 0)
        if tokens + 1 >= limit:
            over[arm] = tokens
        elif tokens + texts.get(arm, 0) > limit:
            tight[arm] = tokens
    if over:
        yield _beyond("warning", "take up all", over, positions, records)
    if tight:
        yield _beyond("note", "and the longest texts exceed the", tight, positions, records)


def _beyond(
    severity: Severity, phrase: str, tokens: dict[str, int], positions: Mapping[str, int], records: Records
) -> Finding:
    limits = {arm: positions[arm] for arm in tokens}
    limit = " or ".join(f"{number:,}" for number in sorted(set(limits.values())))
    return Finding(
        "beyond-positions",
        severity,
        runs_of(records, tokens),
        f"visual tokens {phrase} {limit} positions of the LLM: {listed(tokens)}",
        {"tokens": tokens, "positions": limits},
        together=True,
    )


def prompts_differ(records: Records) -> Iterator[Finding]:
    """Find box prompts that differ between training and test, in words or punctuation."""
    for name, record in records.items():
        train, test = record.train_prompt, record.test_prompt
        if train is None or test is None or "{question}" in train + test:  # one of them does not ask for a box
            continue
        if train != test:
            signs = prompt_signs(train, test)
            where = f" in {' and '.join(signs)}" if signs else ""
            yield Finding(
                "prompt-mismatch",
                "warning",
                (name,),
                f"training and test prompts differ{where}: trained with <{train}>, tested with <{test}>",
                {"trained": train, "tested": test, "differ_in": signs},
            )


def prompt_signs(train: str, test: str) -> list[str]:
    """Return the punctuation in which two prompts differ; empty if they differ in words."""
    if _words(train) != _words(test):
        return []
    signs = {"quotes": '"', "full stop": ".", "line break": "\n"}
    return [name for name, sign in signs.items() if train.count(sign) != test.count(sign)] or ["spacing"]


def box_frames_differ(records: Records) -> Iterator[Finding]:
    """Find boxes that were trained in one frame and are scored in another."""
    for name, record in records.items():
        train, test = record.train_box_frame, record.test_box_frame
        if train is None or test is None:
            continue
        view = View.of_record(record.backbone)
        trained, scored = in_words(train, view), in_words(test, view)
        if trained != scored:
            yield Finding(
                "box-frame-mismatch",
                "warning",
                (name,),
                f"boxes were trained as fractions of the {trained} but are scored as fractions of the {scored}",
                {"trained": train, "tested": test},
            )


def arms_in_other_frames(records: Records) -> Iterator[Finding]:
    """Find a box frame setting that means different frames for different arms."""
    settings = {record.test_box_frame for record in records.values()}
    frames = {
        record.arm: in_words(record.test_box_frame, View.of_record(record.backbone))
        for record in records.values()
        if record.test_box_frame is not None
    }
    if len(settings) == 1 and len(set(frames.values())) > 1:
        arms_by_frame = "; ".join(f"{frame}: {', '.join(arms)}" for frame, arms in _grouped(frames).items())
        yield Finding(
            "box-frames-of-arms",
            "warning",
            runs_of(records, frames),
            f"boxes are scored in different frames in different arms ({arms_by_frame})",
            {"frames": frames, "setting": settings.pop()},
            together=True,
        )


def _grouped(frames: Mapping[str, str]) -> dict[str, list[str]]:
    return {frame: [arm for arm in frames if frames[arm] == frame] for frame in dict.fromkeys(frames.values())}


def _claims(records: Records, quantity: str) -> bool:
    """Whether the study declares its arms matched in a quantity."""
    return any(quantity in record.observed.matched for record in records.values())


def _by_arm(records: Records, value_of: Callable[[RunRecord], int | None]) -> dict[str, int]:
    """Return a number for each arm, without arms that did not record it."""
    values = {record.arm: value_of(record) for record in records.values()}
    return {arm: value for arm, value in values.items() if value is not None}


def _words(prompt: str) -> list[str]:
    return "".join(character if character.isalnum() else " " for character in prompt).split()


CHECKS = (
    single_seed,
    unequal_tokens,
    unequal_sizes,
    beyond_positions,
    prompts_differ,
    box_frames_differ,
    arms_in_other_frames,
)
