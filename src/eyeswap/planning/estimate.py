"""The cost of a study or a recipe, arm by arm, before anything is loaded: tokens, FLOPs, memory and time.

An estimate is arithmetic on sizes (`eyeswap.planning.cost`, `eyeswap.planning.footprint`) and states its assumptions.
Whatever cannot be known on this machine (a timm encoder without timm, an LLM without a config) is reported as unknown.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from eyeswap.backbones.name import BackboneName
from eyeswap.connector_name import ConnectorName
from eyeswap.errors import EnvironmentProblem, SpecError
from eyeswap.evaluation import get_benchmark
from eyeswap.planning import cost
from eyeswap.planning.cost import LanguageModel, Memory
from eyeswap.planning.footprint import Footprint, backbone_footprint
from eyeswap.planning.hardware import GPUS, Gpu
from eyeswap.planning.spec import Study
from eyeswap.recipe import DigitsData, Recipe
from eyeswap.shipped import llm_path

MIX665K_FILE, MIX665K_CONVERSATIONS = "llava_v1_5_mix665k.json", 665_298
DIGITS_TOKENS_PER_TURN = 14.6  # measured with the miniature tokenizer; the embedded conversations are short
MATCHED_SIZES = 0.10  # largest relative difference of parameter counts that still count as matched
NO_TIMM = "timm is not installed, so tokens and cost are unknown: pip install 'eyeswap[timm]'"
QUESTION_TOKENS = 60  # approximate length of system text, question and instruction of a benchmark


@dataclass(frozen=True)
class Assumptions:
    """The assumptions of an estimate.

    Attributes:
        gpu: the GPU.
        num_gpus: GPUs that train one run together.
        mfu: model FLOPs utilization, 0..1: the share of the GPU's peak that training reaches.
        text_tokens: mean text tokens per conversation; None takes 300 for real data (the mean of LLaVA's 665K mix) and
            the measured mean for the embedded set.
    """

    gpu: Gpu = GPUS["h200"]
    num_gpus: int = 1
    mfu: float = 0.4
    text_tokens: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.mfu <= 1:
            raise SpecError(f"mfu {self.mfu:g}: must be a share of the GPU's peak, above 0 and at most 1, such as 0.4")
        if self.num_gpus < 1:
            raise SpecError(f"gpus {self.num_gpus}: must be at least 1")
        if self.text_tokens is not None and self.text_tokens <= 0:
            raise SpecError(f"text tokens {self.text_tokens:g}: must be above 0, such as 300")


@dataclass(frozen=True)
class Workload:
    """The amount of training and evaluation, the same for every arm.

    Attributes:
        conversations: size of the training data; None if the file is not on this machine and its size is unknown.
        steps: optimizer steps; None likewise.
        samples: conversations seen in all steps; None likewise.
        text_tokens: mean text tokens per conversation.
        questions: benchmark questions per run; None if they are drawn when the study runs.
    """

    conversations: int | None
    steps: int | None
    samples: int | None
    text_tokens: float
    questions: int | None


@dataclass(frozen=True)
class ArmEstimate:
    """The cost of one run of an arm.

    Attributes:
        arm: name of the arm.
        footprint: footprint of its backbone; None if it cannot be built on this machine.
        visual_tokens: visual tokens per image that the LLM sees; None without the footprint.
        connector_parameters: parameters of its connector; None if footprint or LLM are unknown.
        flops_per_sample: training FLOPs of one conversation with its image, including the frozen backbone's forward.
        train_flops: FLOPs of the complete training.
        train_gpu_hours: GPU-hours of the complete training.
        eval_gpu_hours: GPU-hours of prefilling every benchmark question with its own image; decoding is not included.
        memory: memory of one GPU.
        problems: reasons why this arm cannot run, one line each.
        notes: remarks, one line each.
    """

    arm: str
    footprint: Footprint | None = None
    visual_tokens: int | None = None
    connector_parameters: int | None = None
    flops_per_sample: float | None = None
    train_flops: float | None = None
    train_gpu_hours: float | None = None
    eval_gpu_hours: float | None = None
    memory: Memory | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyEstimate:
    """The cost of a study: what its arms share, and the estimate of each arm."""

    assumptions: Assumptions
    workload: Workload
    llm: LanguageModel | None
    arms: dict[str, ArmEstimate]
    notes: tuple[str, ...] = field(default=())

    @property
    def problems(self) -> list[str]:
        """Reasons why arms of the study cannot run, one line each."""
        return [problem for arm in self.arms.values() for problem in arm.problems]


def estimate_study(
    study: Study, assumptions: Assumptions, advance: Callable[[int], None] = lambda count: None
) -> StudyEstimate:
    """Estimate every arm of a study.

    Args:
        study: the study.
        assumptions: hardware, utilization and text length.
        advance: called with the number of arms completed since the last call.
    """
    llm, notes = known_llm(study.recipe.llm)
    work = workload(study.recipe, assumptions, study.benchmarks, study.subset)
    arms = {}
    more: dict[str, None] = {}  # notes on LLMs of arms
    for name, arm in study.arms.items():
        try:
            if BackboneName.parse(arm.backbone).kind == "timm" and find_spec("timm") is None:
                raise EnvironmentProblem(NO_TIMM)
            footprint = backbone_footprint(arm.backbone, study.wiring_of(name), arm.tap, arm.geometry)
        except EnvironmentProblem as problem:
            arms[name] = ArmEstimate(name, notes=(f"arms.{name}: {problem}",))
        else:
            own, known, trained_on = study.recipe_of(name), llm, work
            if own.llm != study.recipe.llm:
                known, unknown = known_llm(own.llm)
                more |= dict.fromkeys(unknown)
            if own.data != study.recipe.data:
                trained_on = dataclasses.replace(workload(own, assumptions), questions=work.questions)
            arms[name] = _estimate_arm(study, name, footprint, known, trained_on, assumptions)
        advance(1)
    notes = (*notes, *more, *_workload_notes(study.recipe, work), *_unmatched(study, arms))
    return StudyEstimate(assumptions, work, llm, arms, notes)


def estimate_recipe(recipe: Recipe, visual_tokens: int, assumptions: Assumptions) -> ArmEstimate:
    """Estimate a recipe for a backbone with this many visual tokens of width 768, without the backbone's own FLOPs.

    Raises:
        EnvironmentProblem: if the LLM's sizes are unknown.
    """
    llm = cost.find_language_model(recipe.llm, llm_path(recipe.llm))
    rows = next(rows for rows in range(math.isqrt(visual_tokens), 0, -1) if visual_tokens % rows == 0)
    grid = rows, visual_tokens // rows
    footprint = Footprint(grid, 768, 0, 0, 0, canvas=(16 * grid[0], 16 * grid[1]))
    work = workload(recipe, assumptions)
    estimate = _priced(f"{visual_tokens:,} tokens", recipe, recipe.connector, footprint, llm, work, assumptions)
    overfull = _positions_problem(llm, footprint, estimate.visual_tokens)
    return estimate if overfull is None else dataclasses.replace(estimate, problems=(overfull,))


def known_llm(name: str) -> tuple[LanguageModel | None, tuple[str, ...]]:
    """Return the sizes of an LLM, or None and a one-line note that says why they are unknown."""
    try:
        return cost.find_language_model(name, llm_path(name)), ()
    except EnvironmentProblem as problem:
        return None, (f"recipe.llm: {problem}",)


def workload(
    recipe: Recipe, assumptions: Assumptions, benchmarks: tuple[str, ...] = (), subset: int | None = None
) -> Workload:
    """Return the amount of training of a recipe, and the number of questions of its benchmarks."""
    data = recipe.data
    conversations: int | None
    if isinstance(data, DigitsData):
        conversations, text, questions = data.num_train_images, DIGITS_TOKENS_PER_TURN * data.turns, None
    else:
        conversations = _count_conversations(Path(data.folder) / data.instruction)
        text = 300.0
        sizes = [get_benchmark(name).num_published for name in benchmarks]
        questions = sum(min(size, subset or size) for size in sizes)
    text = min(assumptions.text_tokens or text, recipe.max_text_tokens)
    steps = recipe.max_steps
    if conversations is not None:
        all_steps = -(-conversations // recipe.global_batch) * recipe.num_epochs
        steps = all_steps if steps is None else min(steps, all_steps)
    samples = None if steps is None else steps * recipe.global_batch
    return Workload(conversations, steps, samples, text, questions)


def _count_conversations(path: Path) -> int | None:
    """Count the records of an instruction file by searching for their key, which avoids parsing a gigabyte."""
    if not path.is_file():
        return MIX665K_CONVERSATIONS if path.name == MIX665K_FILE else None
    key, total, tail = b'"conversations"', 0, b""
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            total += (tail + block).count(key)
            tail = block[-len(key) + 1 :]
    return total


def _workload_notes(recipe: Recipe, work: Workload) -> tuple[str, ...]:
    if isinstance(recipe.data, DigitsData):
        return ()
    path = Path(recipe.data.folder) / recipe.data.instruction
    if path.is_file():
        return ()
    missing = path if path.parent.is_dir() else Path(recipe.data.folder)
    is_known = work.samples is not None
    consequence = "using the published number of conversations" if is_known else "steps and hours are unknown"
    return (f"recipe.data: {missing} does not exist on this machine; {consequence}",)


def _estimate_arm(
    study: Study, name: str, footprint: Footprint, llm: LanguageModel | None, work: Workload, assumptions: Assumptions
) -> ArmEstimate:
    if llm is None:
        connector = ConnectorName.parse(study.connector_of(name))
        return ArmEstimate(name, footprint, None if connector.own else connector.num_tokens(footprint.grid))
    estimate = _priced(name, study.recipe_of(name), study.connector_of(name), footprint, llm, work, assumptions)
    tokens = estimate.visual_tokens or footprint.tokens
    overfull = _positions_problem(llm, footprint, tokens)
    if overfull is not None and study.beyond_positions == "refuse":
        return dataclasses.replace(estimate, problems=(f"arms.{name}: {overfull}",))
    if llm.positions is None:
        return estimate
    free_positions = llm.positions - tokens
    if overfull is not None:
        note = f"{tokens:,} visual tokens exceed the LLM's {llm.positions:,} positions, as allowed"
    elif free_positions < study.recipe.max_text_tokens:
        note = f"conversations over {free_positions:,} text tokens exceed the LLM's {llm.positions:,} positions"
    else:
        return estimate
    return dataclasses.replace(estimate, notes=(*estimate.notes, f"arms.{name}: {note}"))


def _positions_problem(llm: LanguageModel, footprint: Footprint, tokens: int | None) -> str | None:
    seen = tokens or footprint.tokens
    return positions_problem(llm.name, llm.positions, seen, footprint.stride_px * math.sqrt(footprint.tokens / seen))


def positions_problem(llm_name: str, positions: int | None, tokens: int, stride_px: float) -> str | None:
    """Return one line with the alternatives if the visual tokens leave no position for text, otherwise None.

    Args:
        llm_name: name of the LLM.
        positions: number of positions of the LLM; None if it has no limit.
        tokens: visual tokens per image.
        stride_px: canvas pixels between neighbouring tokens.
    """
    if positions is None or tokens + 1 < positions:
        return None
    smaller = round(512 / stride_px) ** 2
    return (
        f"{tokens:,} visual tokens fill the {positions:,} positions of {llm_name}; choose a smaller canvas (geometry: "
        f"corner-letterbox-512 gives {smaller:,}), an LLM with more positions, or exceed them as the published study "
        "does (beyond_positions: allow)"
    )


def _priced(
    name: str,
    recipe: Recipe,
    connector_kind: str,
    footprint: Footprint,
    llm: LanguageModel,
    work: Workload,
    assumptions: Assumptions,
) -> ArmEstimate:
    """Return the cost of one run."""
    connector = cost.connector_size(connector_kind, footprint.grid, footprint.width, llm.width)
    per_token, tokens = connector.multiplied_per_token, connector.tokens
    adapters = recipe.trained in ("connector", "connector+adapters")
    learning = footprint.parameters if recipe.tuned is not None else 0  # at most: as if all blocks learnt
    encoding = footprint.flops * (3 if learning else 1)  # forward, and backward
    sample = encoding + cost.training_flops(llm, per_token, tokens, work.text_tokens, adapters_only=adapters)
    question = footprint.flops + cost.prefill_flops(llm, per_token, tokens, QUESTION_TOKENS)
    train = None if work.samples is None else sample * work.samples
    evaluation = None if work.questions is None else question * work.questions
    gpu, mfu = assumptions.gpu, assumptions.mfu
    return ArmEstimate(
        arm=name,
        footprint=footprint,
        visual_tokens=tokens,
        connector_parameters=connector.parameters,
        flops_per_sample=sample,
        train_flops=train,
        train_gpu_hours=None if train is None else cost.gpu_hours(train, gpu, mfu),
        eval_gpu_hours=None if evaluation is None else cost.gpu_hours(evaluation, gpu, mfu),
        memory=cost.training_memory(
            llm,
            connector.parameters + learning,
            footprint.parameters - learning,
            gpu,
            assumptions.num_gpus,
            adapters_only=adapters,
        ),
        notes=(f"arms.{name}: blocks of the backbone learn; the cost counts as if all of them did",)
        if learning
        else (),
    )


def _unmatched(study: Study, arms: dict[str, ArmEstimate]) -> tuple[str, ...]:
    """Return where arms differ in what the study claims to be matched."""
    footprints = {name: arm.footprint for name, arm in arms.items() if arm.footprint is not None}
    tokens = {name: arm.visual_tokens for name, arm in arms.items() if arm.visual_tokens is not None}
    sizes = {name: footprint.parameters for name, footprint in footprints.items()}
    notes = []
    if "tokens" in study.matched and len(set(tokens.values())) > 1:
        notes.append(f"matched: tokens differ: {listed(tokens)}")
    if "parameters" in study.matched and sizes and max(sizes.values()) > (1 + MATCHED_SIZES) * min(sizes.values()):
        notes.append(f"matched: parameters differ by more than {MATCHED_SIZES:.0%}: {listed(sizes)}")
    return tuple(notes)


def listed(counts: Mapping[str, int]) -> str:
    """Return counts as text, each value once after the names that have it."""
    names_by_count: dict[int, list[str]] = {}
    for name, count in counts.items():
        names_by_count.setdefault(count, []).append(name)
    return "; ".join(f"{', '.join(names)} {count:,}" for count, names in names_by_count.items())
