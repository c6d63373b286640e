"""Custom benchmarks: a YAML file that names a metric, and JSON lines with one question per row.

    metric: exact-match          # or another of `METRICS`
    data: street-signs.jsonl     # path relative to this file
    images: photos               # folder that image names are relative to; default: this file's folder
    prompt: Answer with one word.  # last line of the user message; default: the metric's own
    title: Street signs          # name in tables; default: the file name
    group: vqa                   # average to which it belongs; default: localization for boxes, else vqa
    train: signs-train.jsonl     # rows on which the trivial baseline is fitted; default: none, a fixed constant

A row has ``id``, ``image``, ``question``, the fields of its metric (below), and optionally ``kind`` and ``subset`` for
breakdowns. The benchmark's name is the file name without suffix.
"""

from __future__ import annotations

import math
import re
import string
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eyeswap.data.formats import Example
from eyeswap.data.formats.record import Record, Truth, records, unique
from eyeswap.data.formats.tallyqa import choice_message
from eyeswap.data.formats.vqa import SHORT_ANSWER
from eyeswap.data.official.layout import Split
from eyeswap.errors import DataError, MissingFileError, SpecError, nearest
from eyeswap.evaluation.benchmark import (
    Answer,
    AnswerKind,
    Benchmark,
    Group,
    Outcome,
    answer_text,
)
from eyeswap.evaluation.grounding import Grounding
from eyeswap.evaluation.hallucination import POPE, first_token_margin
from eyeswap.evaluation.text import normalise_answer, normalise_words
from eyeswap.evaluation.vqa import score_vqa_official
from eyeswap.files import digest, read_json_lines, sha256_of
from eyeswap.yaml_reader import read_yaml

KEYS = ("metric", "data", "images", "prompt", "title", "group", "train")
GROUPS: tuple[Group, ...] = ("vqa", "localization")
_NAME = re.compile(r"[a-z0-9]+([-+][a-z0-9]+)*")


def load_custom(path: Path) -> CustomBenchmark:
    """Load a custom benchmark from its YAML file, and check all of its rows.

    Raises:
        SpecError: if the file is missing or not YAML, or has an unknown key or value.
        DataError: naming file and field, or file and row.
    """
    header = Record.of(read_yaml(path), str(path))
    for key in header.values:
        if key not in KEYS:
            raise SpecError(f"{path}: unknown key {key!r}. {nearest(str(key), KEYS)}")
    if not _NAME.fullmatch(path.stem):
        raise SpecError(f"{path}: the file name is the benchmark's name and must be kebab-case, such as my-signs.yaml")
    metric = header.text("metric")
    make = _metric_class(path, metric)
    group = header.text("group", "localization" if make is BoxAccuracy else "vqa")
    if group not in GROUPS:
        raise SpecError(f"{path}: group: {nearest(group, GROUPS)}")
    folder = path.resolve().parent
    data = folder / header.text("data")
    rows = list(records(read_json_lines(data), data))
    if not rows:
        raise DataError(f"{data}: has no rows")
    benchmark = make(
        name=path.stem,
        title=header.text("title", path.stem),
        family="",
        num_published=len(rows),
        path=path,
        section="localization" if group == "localization" else "vqa",
        metric_name=metric,
        prompt=header.text("prompt") if "prompt" in header.values else None,
        data=data,
        train=folder / header.text("train") if "train" in header.values else None,
        images=folder / header.text("images", "."),
        most_choices=max(len(choices_of(row)) for row in rows) if make is MultipleChoice else 0,
    )
    for split in ("eval", "train") if benchmark.train else ("eval",):
        benchmark.family_examples(folder, split)
    return benchmark


def _metric_class(path: Path, metric: str) -> type[CustomBenchmark]:
    threshold = re.fullmatch(r"accuracy-iou-(0\.\d+|1|1\.0)", metric)
    if threshold and float(threshold[1]) > 0:
        return BoxAccuracy
    if metric not in METRICS:
        raise SpecError(f"{path}: unknown metric {metric!r}. {nearest(metric, METRICS)}")
    return METRICS[metric]


_FEWEST_ANSWERS = 4  # with fewer, not even a unanimous answer could score 1


@dataclass(frozen=True)
class CustomBenchmark(Benchmark):
    """A benchmark described by a YAML file.

    Attributes:
        path: the YAML file.
        section: the average to which it belongs.
        metric_name: the metric's name in the YAML file.
        prompt: last line of the user message; None for the metric's own.
        train: file with rows for the trivial baseline; None without.
        data: file with the rows that are asked.
        images: folder that image names are relative to.
        most_choices: largest number of choices in a row.
    """

    path: Path = Path()
    section: Group = "vqa"
    metric_name: str = ""
    prompt: str | None = None
    data: Path = Path()
    train: Path | None = None
    images: Path = Path()
    most_choices: int = 0

    @property
    def group(self) -> Group:
        return self.section

    @property
    def origin(self) -> str:
        return str(self.path.resolve())

    @property
    def identity(self) -> str:
        files = [path for path in (self.path, self.data, self.train) if path is not None]
        return f"{self.name}@{digest([sha256_of(path) for path in files])[:16]}"

    @property
    def metric(self) -> str:
        return self.metric_name

    def family_examples(self, root: Path, split: Split = "eval") -> list[Example]:
        """Read the rows; images inside ``root`` are named relative to it, others by their absolute path.

        Raises:
            DataError: naming file and row.
        """
        path = self.data if split == "eval" else self.train
        if path is None:
            raise MissingFileError(f"{self.path}: no train rows")
        rows = records(read_json_lines(path), path)
        return unique([self._example(record, root.resolve()) for record in rows], path)

    def slim_part(self, example: Example) -> str:
        return example.subset

    def _example(self, record: Record, root: Path) -> Example:
        name = record.text("image")
        image = Path(record.image_path(self.images.as_posix(), name))
        return Example(
            example_id=record.identifier("id"),
            image=(image.relative_to(root) if image.is_relative_to(root) else image).as_posix(),
            image_id=name,
            subset=record.text("subset", "all"),
            kind=record.text("kind", "question"),
            question=record.text("question"),
            truth=self.truth(record),
            size=(record.integer("width"), record.integer("height")) if "width" in record.values else None,
            details=self.row_details(record),
        )

    @abstractmethod
    def truth(self, record: Record) -> Truth:
        """Return the ground truth of a row."""

    def row_details(self, record: Record) -> Mapping[str, Any]:
        """Return the other fields of a row that scoring needs."""
        return {}

    def user_message(self, example: Example) -> str:
        prompt = SHORT_ANSWER if self.prompt is None else self.prompt
        return f"{example.question}\n{prompt}" if prompt else example.question


@dataclass(frozen=True)
class ExactMatch(CustomBenchmark):
    """``answer``, or ``answers`` of which any is right; both sides are normalised as in VQA v2."""

    def truth(self, record: Record) -> Truth:
        """Read ``answer`` or ``answers``."""
        return _answers(record) if "answers" in record.values else (record.text("answer"),)

    def score(self, example: Example, answer: Answer) -> Outcome:
        """Score 1 if the answer is one of the true answers."""
        text = answer_text(example, answer)
        right = normalise_answer(text) in {normalise_answer(truth) for truth in _texts(example)}
        return Outcome(example, text, float(right), invalid=not text.strip())


@dataclass(frozen=True)
class VQAAccuracy(CustomBenchmark):
    """``answers`` of at least four people, scored by VQA v2's own script."""

    def truth(self, record: Record) -> Truth:
        answers = _answers(record)
        if len(answers) < _FEWEST_ANSWERS:
            raise record.fail(f"vqa-accuracy needs {_FEWEST_ANSWERS} answers or more, found {len(answers)}")
        return answers

    def score(self, example: Example, answer: Answer) -> Outcome:
        """Score by how many people gave the answer; agreement with three others is enough for 1."""
        text = answer_text(example, answer)
        return Outcome(example, text, score_vqa_official(text, _texts(example)) or 0.0, invalid=not text.strip())


@dataclass(frozen=True)
class Number(CustomBenchmark):
    """``answer`` is a number; the model must answer with only that number, in digits or words up to ten."""

    def truth(self, record: Record) -> Truth:
        """Read ``answer``, a number or its text."""
        value = record.values.get("answer")
        text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else record.text("answer")
        if read_number(text) is None:
            raise record.fail(f"field 'answer' must be a number, found {text!r}")
        return text

    def score(self, example: Example, answer: Answer) -> Outcome:
        """Score 1 if the numbers are equal."""
        text = answer_text(example, answer)
        number = read_number(text)
        return Outcome(example, text, float(number == read_number(str(example.truth))), invalid=number is None)


@dataclass(frozen=True)
class YesNo(CustomBenchmark):
    """``answer`` is yes or no; the model's answer is the more probable first token of Yes and No."""

    @property
    def answer_kind(self) -> AnswerKind:
        return "choice"

    @property
    def choices(self) -> tuple[str, ...]:
        return ("Yes", "No")

    def truth(self, record: Record) -> Truth:
        answer = record.text("answer").lower()
        if answer not in ("yes", "no"):
            raise record.fail(f"field 'answer' must be yes or no, found {answer!r}")
        return answer

    def score(self, example: Example, answer: Answer) -> Outcome:
        """Score 1 if right; a text is interpreted as in POPE."""
        return POPE(self.name, self.title, "pope", 0).score(example, answer)


@dataclass(frozen=True)
class MultipleChoice(CustomBenchmark):
    """``choices`` and ``answer``, one of them or its letter; the model's answer is the most probable letter."""

    @property
    def answer_kind(self) -> AnswerKind:
        return "choice"

    @property
    def choices(self) -> tuple[str, ...]:
        """Letters for the row with the most choices."""
        return tuple(string.ascii_uppercase[: self.most_choices])

    def truth(self, record: Record) -> Truth:
        """Return ``answer`` as a letter."""
        offered, answer = choices_of(record), record.text("answer")
        letters = string.ascii_uppercase[: len(offered)]
        if answer in offered:
            return letters[offered.index(answer)]
        if len(answer) != 1 or answer not in letters:
            raise record.fail(f"field 'answer' must be one of the choices or a letter of {letters}, found {answer!r}")
        return answer

    def row_details(self, record: Record) -> Mapping[str, Any]:
        return {"choices": choices_of(record)}

    def user_message(self, example: Example) -> str:
        """Return the question, its lettered choices, and the instruction."""
        message = choice_message(example.question, example.details["choices"])
        return message if self.prompt is None else "\n".join([*message.split("\n")[:-1], self.prompt]).rstrip("\n")

    def score(self, example: Example, answer: Answer) -> Outcome:
        """Score 1 if the letter is right, among the letters of the row; a text may be a letter or a choice."""
        offered = [str(choice) for choice in example.details["choices"]]
        letters = string.ascii_uppercase[: len(offered)]
        truth = letters.index(str(example.truth))
        if isinstance(answer, str):
            spelled = dict(zip(offered, letters, strict=True)) | {letter: letter for letter in letters}
            letter = spelled.get(answer.strip()) or spelled.get(answer.strip().rstrip(".)"), "")
            return Outcome(example, answer, float(letter == example.truth), invalid=not letter)
        of_choices = list(answer[: len(letters)])
        if len(of_choices) < len(letters) or any(math.isnan(value) for value in of_choices):
            return Outcome(example, "", 0.0, invalid=True, probabilities=tuple(answer))
        best = max(range(len(of_choices)), key=of_choices.__getitem__)  # the first of equals
        return Outcome(
            example,
            letters[best],
            float(best == truth),
            margin=first_token_margin(of_choices, truth),
            probabilities=tuple(answer),
        )


@dataclass(frozen=True)
class BoxAccuracy(CustomBenchmark, Grounding):
    """``box`` ``[x1, y1, x2, y2]``, in pixels if the row has ``width`` and ``height``, else in 0..1 of the image."""

    exact_truth: bool = field(default=True, kw_only=True)

    @property
    def answer_kind(self) -> AnswerKind:
        return "box"

    @property
    def iou_threshold(self) -> float:
        """IoU from which a box is right, from the metric's name."""
        return float(self.metric_name.rpartition("-")[2])

    def truth(self, record: Record) -> Truth:
        x1, y1, x2, y2 = record.box("box")
        width, height = (record.integer("width"), record.integer("height")) if "width" in record.values else (1, 1)
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise record.fail(f"box {[x1, y1, x2, y2]} is empty or outside its {width}x{height} image")
        return (x1 / width, y1 / height, x2 / width, y2 / height)

    def user_message(self, example: Example) -> str:
        """Return the study's request for a box, or the question and the prompt line."""
        asks = Grounding.user_message if self.prompt is None else CustomBenchmark.user_message
        return asks(self, example)


METRICS: dict[str, type[CustomBenchmark]] = {
    "exact-match": ExactMatch,
    "vqa-accuracy": VQAAccuracy,
    "number": Number,
    "yes-no": YesNo,
    "multiple-choice": MultipleChoice,
    "accuracy-iou-0.5": BoxAccuracy,
}


def read_number(text: str) -> float | None:
    """Return the number of which a text consists, in digits or in words up to ten; None if it is not one.

    Example:
        >>> read_number("Three."), read_number("1,000"), read_number("about 3")
        (3.0, 1000.0, None)
    """
    try:
        value = float(normalise_words(text.strip().removesuffix(".").replace(",", "")))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _answers(record: Record) -> tuple[str, ...]:
    answers = record.items("answers")
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise record.fail("field 'answers' must be a list of texts, at least one")
    return tuple(answers)


def choices_of(record: Record) -> list[str]:
    """Return the choices of a row.

    Raises:
        DataError: naming file and row.
    """
    offered = record.items("choices")
    if not 2 <= len(offered) <= 26 or not all(isinstance(choice, str) for choice in offered):
        raise record.fail("field 'choices' must be a list of 2 to 26 texts")
    if len(set(offered)) < len(offered):
        raise record.fail("field 'choices' contains the same text twice")
    return offered


def _texts(example: Example) -> Sequence[str]:
    if not isinstance(example.truth, tuple):
        raise DataError(f"example {example.example_id}: needs a list of true answers, found {example.truth!r}")
    return [str(truth) for truth in example.truth]
