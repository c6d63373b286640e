"""Probe a run or a backbone: what can be read out at each site, with intervals, and where it gets lost."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eyeswap.evaluation.ask import answered_box
from eyeswap.evaluation.boxes import iou, to_canvas
from eyeswap.files import write_json, write_text
from eyeswap.probing.labelled import LabelledImages
from eyeswap.probing.measures import TokenStatistics, correspondence, token_statistics, word_alignment
from eyeswap.probing.questions import TASKS, Question, Task, ask
from eyeswap.probing.readouts import IOU_THRESHOLD, KINDS, Features, Kind, constant_scores, cross_validate
from eyeswap.probing.sites import Seen, answer_sites, chosen_layers, grid_sites, see
from eyeswap.progress import Progress
from eyeswap.statistics.differences import sample_intervals
from eyeswap.statistics.resampling import Interval, Sample

if TYPE_CHECKING:
    from eyeswap.backbones.weights import LoadedBackbone
    from eyeswap.vlm.model import VisionLanguageModel

VISUAL = "visual tokens"
ANSWER = "the VLM's answer"
_VIEWED = 200  # images of which a second view is looked at, at most
_ASKED = 64  # images asked about together


@dataclass(frozen=True)
class Reading:
    """What one readout finds at one site.

    Attributes:
        site: ``visual tokens``, ``connector``, ``LLM layer 2``, ``answer, layer 2``, or ``the VLM's answer``.
        task: what was asked.
        readout: ``linear`` or ``nonlinear``; ``answer`` for what the VLM itself said.
        score: share of right answers with its interval over images.
        chance: share that the best constant answer gets right.
        num_questions: questions asked.
    """

    site: str
    task: Task
    readout: str
    score: Interval
    chance: float
    num_questions: int


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        name: of the run or backbone.
        source: where the images come from.
        num_images: how many.
        readings: one a site, task and readout.
        statistics: of visual tokens and connector outputs, by site.
        correspondence: share of tokens that find their place again in another view.
        word_alignment: mean largest cosine of connector outputs with the LLM's words; None for a backbone alone.
    """

    name: str
    source: str
    num_images: int
    readings: list[Reading]
    statistics: dict[str, TokenStatistics]
    correspondence: float
    word_alignment: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def sites(self) -> list[str]:
        """The sites along the way from the image to the answer."""
        return list(dict.fromkeys(reading.site for reading in self.readings))

    def at(self, site: str, task: Task, readout: str) -> Reading | None:
        """Return one reading, if there is one."""
        wanted = (site, task, readout)
        return next((each for each in self.readings if (each.site, each.task, each.readout) == wanted), None)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values; scores in percent."""
        rows = [
            {
                "site": each.site, "task": each.task, "readout": each.readout, "score": 100 * each.score.value,
                "low": 100 * each.score.low, "high": 100 * each.score.high, "chance": 100 * each.chance,
                "n": each.num_questions,
            }
            for each in self.readings
        ]  # fmt: skip
        return {
            "name": self.name, "source": self.source, "num_images": self.num_images, "settings": self.settings,
            "readings": rows, "statistics": {site: asdict(each) for site, each in self.statistics.items()},
            "correspondence": self.correspondence, "word_alignment": self.word_alignment,
        }  # fmt: skip


def probe_backbone(
    name: str, backbone: LoadedBackbone, images: LabelledImages, board: Progress, *, device: Any, seed: int = 0
) -> ProbeResult:
    """Probe the visual tokens of a backbone.

    Args:
        name: for tables.
        backbone: the backbone.
        images: labelled images.
        board: shows progress.
        device: where the backbone works.
        seed: of questions, folds and readouts.

    Raises:
        SpecError: if its canvas varies with the image.
    """
    seen = _see(name, backbone, images, board, device)
    questions = ask(images, seen.placements, seed)
    sites = {VISUAL: Features(seen.tokens, seen.grid)}
    readings = _read(name, sites, questions, images, board, seed)
    return _result(name, backbone, images, seen, readings, sites, seed)


def probe_model(
    name: str,
    model: VisionLanguageModel,
    images: LabelledImages,
    board: Progress,
    *,
    layers: Sequence[int] | None = None,
    seed: int = 0,
) -> ProbeResult:
    """Probe a VLM from its visual tokens to its answers.

    Args:
        name: for tables.
        model: the VLM in eval mode, on the device it works on.
        images: labelled images.
        board: shows progress.
        layers: LLM layers to look behind, counted from 1; by default four evenly spaced ones.
        seed: of questions, folds and readouts.

    Raises:
        SpecError: if the backbone's canvas varies with the image, or the LLM has no such layer.
    """
    layers = chosen_layers(model, layers)
    seen = _see(name, model.backbone, images, board, model.device)
    questions = ask(images, seen.placements, seed)
    task = board.task(f"{name}: hidden states", len(seen.tokens) + sum(map(len, questions.values())))
    sites = {VISUAL: Features(seen.tokens, seen.grid)} | grid_sites(model, seen, layers, task.advance)
    states = {each: answer_sites(model, seen, questions[each], layers, task.advance) for each in TASKS}
    readings = _read(name, sites, questions, images, board, seed, states)
    readings += _answers(name, model, seen, questions, board)
    result = _result(name, model.backbone, images, seen, readings, {k: sites[k] for k in (VISUAL, "connector")}, seed)
    aligned = word_alignment(sites["connector"].values, model.get_input_embeddings().weight.detach().cpu())
    return replace(result, word_alignment=aligned, settings={**result.settings, "layers": layers})


def _see(name: str, backbone: LoadedBackbone, images: LabelledImages, board: Progress, device: Any) -> Seen:
    task = board.task(f"{name}: visual tokens", len(images.images))
    return see(backbone, images, device, task.advance)


def _result(
    name: str, backbone: LoadedBackbone, images: LabelledImages, seen: Seen, readings: list[Reading],
    sites: Mapping[str, Features], seed: int,
) -> ProbeResult:  # fmt: skip
    viewed = LabelledImages(images.source, images.categories, images.images[:_VIEWED])
    found_again = correspondence(backbone, viewed, seen.tokens[:_VIEWED], seen.placements[:_VIEWED], seed)
    statistics = {site: token_statistics(features.values, seen.grid) for site, features in sites.items()}
    return ProbeResult(
        name, images.source, len(images.images), readings, statistics, found_again, settings={"seed": seed}
    )


def _read(
    name: str,
    sites: Mapping[str, Features],
    questions: Mapping[Task, Sequence[Question]],
    images: LabelledImages,
    board: Progress,
    seed: int,
    states: Mapping[Task, Mapping[str, Features]] | None = None,
) -> list[Reading]:
    """Fit every readout at every site."""
    todo: list[tuple[str, Task, Kind, Features]] = []
    for task in TASKS:
        of_task = {**sites, **(states[task] if states else {})}
        todo += [(site, task, kind, features) for site, features in of_task.items() for kind in KINDS]
    readings = []
    for site, task, kind, features in board.track(todo, f"{name}: readouts", len(todo)):
        asked = questions[task]
        if asked:
            scores = cross_validate(kind, task, features, asked, len(images.categories), seed=seed)
            readings.append(_reading(site, task, kind, scores, asked))
    return readings


def _reading(
    site: str, task: Task, readout: str, scores: NDArray[np.float64], questions: Sequence[Question]
) -> Reading:
    clusters = [question.image for question in questions]
    chance = float(constant_scores(task, questions).mean())
    return Reading(
        site, task, readout, sample_intervals(Sample([scores[np.newaxis]], [clusters]))[0], chance, len(questions)
    )


def _answers(
    name: str, model: VisionLanguageModel, seen: Seen, questions: Mapping[Task, Sequence[Question]], board: Progress
) -> list[Reading]:
    """Ask the VLM itself the same questions."""
    from eyeswap.evaluation.generate import Generator, Request

    generator = Generator(model)
    progress = board.task(f"{name}: answers", sum(map(len, questions.values())))
    readings = []
    for task, asked in questions.items():
        of_image: dict[int, list[int]] = {}
        for row, question in enumerate(asked):
            of_image.setdefault(question.image, []).append(row)
        scores = np.zeros(len(asked))
        numbers = list(of_image)
        for start in range(0, len(numbers), _ASKED):
            part = numbers[start : start + _ASKED]
            requests = [
                [Request(model.prompt.question(asked[row].text), max_new_tokens=32) for row in of_image[image]]
                for image in part
            ]
            answered = generator.answer(seen.tokens[part].to(model.device), requests)
            for image, answers in zip(part, answered, strict=True):
                for row, answer in zip(of_image[image], answers, strict=True):
                    scores[row] = _is_right(model, seen, asked[row], answer.text)
            progress.advance(sum(len(of_image[image]) for image in part))
        if asked:
            readings.append(_reading(ANSWER, task, "answer", scores, asked))
    return readings


def _is_right(model: VisionLanguageModel, seen: Seen, question: Question, text: str) -> bool:
    """Judge an answer: the word or number is in it as a word; a box has an IoU of 0.5, in the frame of its training."""
    if question.task != "where":
        words = text.lower().strip(" .").split()
        wanted = question.answer.lower().split()
        return any(words[start : start + len(wanted)] == wanted for start in range(len(words)))
    placement = seen.placements[question.image]
    box = answered_box(model, placement.image_size, text)
    if box is None or question.box is None:
        return False
    return iou(to_canvas(box, placement), question.box) >= IOU_THRESHOLD


def write_result(result: ProbeResult, folder: Path) -> None:
    """Write ``probe.json``, ``probe.csv`` and ``probe.png``."""
    from eyeswap.probing.figure import draw

    content = result.as_json()
    write_json(folder / "probe.json", content)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(content["readings"][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(content["readings"])
    write_text(folder / "probe.csv", text.getvalue())
    draw(result, folder / "probe.png")
