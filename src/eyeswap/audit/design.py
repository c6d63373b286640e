"""Warnings about how a study was set up: seeds, what is called matched, positions, prompts, box frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from eyeswap.audit.finding import Finding, Records, Severity, runs_of
from eyeswap.evaluation.frames import View, in_words
from eyeswap.planning.estimate import listed
from eyeswap.runs.record import RunRecord

PARAMETER_TOLERANCE = 0.10


def single_seed(records: Records) -> Iterator[Finding]:
    """One training seed for every arm: nothing is known about the spread between trainings."""
    seeds = sorted({record.seed for record in records.values()})
    if len(seeds) == 1:
        yield Finding(
            "single-seed",
            "warning",
            tuple(records),
            "one seed: the spread between training runs is not in the intervals",
            {"seeds": seeds},
            together=True,
        )


def unequal_tokens(records: Records) -> Iterator[Finding]:
    """Arms with unequal numbers of visual tokens; worse if the study calls them matched."""
    counts = _by_arm(records, lambda record: record.backbone.num_tokens)
    if len(set(counts.values())) < 2:
        return
    claimed = _claims(records, "tokens")
    words = "arms called matched in tokens" if claimed else "arms"
    yield Finding(
        "unequal-tokens",
        "warning" if claimed else "note",
        runs_of(records, counts),
        f"{words} give the LLM unequal numbers of visual tokens: {listed(counts)}",
        {"tokens": counts, "called_matched": claimed},
        together=True,
    )


def unequal_sizes(records: Records) -> Iterator[Finding]:
    """Backbones that differ in size by more than a tenth; worse if the study calls them matched."""
    sizes = _by_arm(records, lambda record: record.backbone.num_parameters or None)
    if not sizes or max(sizes.values()) <= (1 + PARAMETER_TOLERANCE) * min(sizes.values()):
        return
    claimed = _claims(records, "parameters")
    words = "backbones called matched in parameters" if claimed else "backbone sizes"
    yield Finding(
        "unequal-sizes",
        "warning" if claimed else "note",
        runs_of(records, sizes),
        f"{words} differ by more than {PARAMETER_TOLERANCE:.0%}: {listed(sizes)} parameters",
        {"parameters": sizes, "called_matched": claimed},
        together=True,
    )


def beyond_positions(records: Records) -> Iterator[Finding]:
    """Visual tokens, or visual tokens and the longest text, need more positions than the LLM was made for."""
    positions = _by_arm(records, lambda record: record.observed.llm_positions)
    counts = _by_arm(records, lambda record: record.backbone.num_tokens)
    texts = _by_arm(records, lambda record: (record.recipe or {}).get("max_text_tokens"))
    over: dict[str, int] = {}
    tight: dict[str, int] = {}
    for arm, room in positions.items():
        tokens = counts.get(arm, 0)
        if tokens + 1 >= room:
            over[arm] = tokens
        elif tokens + texts.get(arm, 0) > room:
            tight[arm] = tokens
    if over:
        yield _beyond("warning", "fill all", over, positions, records)
    if tight:
        yield _beyond("note", "and the longest texts exceed the", tight, positions, records)


def _beyond(
    severity: Severity, what: str, tokens: dict[str, int], positions: Mapping[str, int], records: Records
) -> Finding:
    rooms = {arm: positions[arm] for arm in tokens}
    room = " or ".join(f"{one:,}" for one in sorted(set(rooms.values())))
    return Finding(
        "beyond-positions",
        severity,
        runs_of(records, tokens),
        f"visual tokens {what} {room} positions of the LLM: {listed(tokens)}",
        {"tokens": tokens, "positions": rooms},
        together=True,
    )


def prompts_differ(records: Records) -> Iterator[Finding]:
    """Training and test ask for a box in different words or signs."""
    for name, record in records.items():
        train, test = record.train_prompt, record.test_prompt
        if train is None or test is None or "{question}" in train + test:  # one of them asks for no box
            continue
        if train != test:
            signs = prompt_signs(train, test)
            in_what = f" in {' and '.join(signs)}" if signs else ""
            yield Finding(
                "prompt-mismatch",
                "warning",
                (name,),
                f"training and test prompts differ{in_what}: trained as <{train}>, tested as <{test}>",
                {"trained": train, "tested": test, "differ_in": signs},
            )


def prompt_signs(train: str, test: str) -> list[str]:
    """Return by which signs two prompts differ; empty if they differ in their words."""
    if _words(train) != _words(test):
        return []
    signs = {"quotes": '"', "full stop": ".", "line break": "\n"}
    return [name for name, sign in signs.items() if train.count(sign) != test.count(sign)] or ["spacing"]


def box_frames_differ(records: Records) -> Iterator[Finding]:
    """Boxes were learnt as fractions of one thing and read as fractions of another."""
    for name, record in records.items():
        train, test = record.train_box_frame, record.test_box_frame
        if train is None or test is None:
            continue
        view = View.of_record(record.backbone)
        learnt, read = in_words(train, view), in_words(test, view)
        if learnt != read:
            yield Finding(
                "box-frame-mismatch",
                "warning",
                (name,),
                f"boxes were learnt as fractions of the {learnt} and read as fractions of the {read}",
                {"trained": train, "tested": test},
            )


def arms_in_other_frames(records: Records) -> Iterator[Finding]:
    """One setting that puts the boxes of each arm into a frame of its own."""
    settings = {record.test_box_frame for record in records.values()}
    frames = {
        record.arm: in_words(record.test_box_frame, View.of_record(record.backbone))
        for record in records.values()
        if record.test_box_frame is not None
    }
    if len(settings) == 1 and len(set(frames.values())) > 1:
        told = "; ".join(f"{frame}: {', '.join(arms)}" for frame, arms in _grouped(frames).items())
        yield Finding(
            "box-frames-of-arms",
            "warning",
            runs_of(records, frames),
            f"boxes are scored in other frames from arm to arm ({told})",
            {"frames": frames, "setting": settings.pop()},
            together=True,
        )


def _grouped(frames: Mapping[str, str]) -> dict[str, list[str]]:
    return {frame: [arm for arm in frames if frames[arm] == frame] for frame in dict.fromkeys(frames.values())}


def _claims(records: Records, what: str) -> bool:
    """Whether the study calls its arms equal in something."""
    return any(what in record.observed.matched for record in records.values())


def _by_arm(records: Records, value_of: Callable[[RunRecord], int | None]) -> dict[str, int]:
    """Return a number of each arm; arms that recorded none are left out."""
    values = {record.arm: value_of(record) for record in records.values()}
    return {arm: value for arm, value in values.items() if value is not None}


def _words(prompt: str) -> list[str]:
    return "".join(sign if sign.isalnum() else " " for sign in prompt).split()


CHECKS = (
    single_seed,
    unequal_tokens,
    unequal_sizes,
    beyond_positions,
    prompts_differ,
    box_frames_differ,
    arms_in_other_frames,
)
