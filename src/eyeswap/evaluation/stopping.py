"""Early stopping of answers: an answer is decided when no continuation can change its score, box, or validity.

The study generates until the end of the sequence, at most 128 tokens. Trained models need a few; one that rambles costs
128 tokens for an answer that was wrong after ten. The rules here stop such answers early. None of them uses the ground
truth of the question, and none applies while the score could still change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from eyeswap.data.formats import Example
from eyeswap.data.formats.boxes import BOX_PATTERN
from eyeswap.evaluation.benchmark import Benchmark
from eyeswap.evaluation.gqa import GQA
from eyeswap.evaluation.grounding import Grounding
from eyeswap.evaluation.hallucination import POPE, say_yes_or_no
from eyeswap.evaluation.vqa import TextVQA, VizWiz, VQAv2

_ARTICLES = {"a", "an", "the"}
_PLAIN_WORD = re.compile(r"[0-9A-Za-z]+")
_PIECE = re.compile(r"[^\W_]+|[^\w\s]|_")  # a run of letters and digits, or one mark


def stop_rule(benchmark: Benchmark, examples: Iterable[Example]) -> Callable[[str], bool] | None:
    """Return the rule that tells when an answer to a benchmark is decided; None if only its end decides.

    Args:
        benchmark: the benchmark.
        examples: all examples that are asked.
    """
    if isinstance(benchmark, Grounding):
        return box_is_decided
    if isinstance(benchmark, POPE) and benchmark.mode == "official":
        return yes_no_is_decided
    if isinstance(benchmark, VQAv2 | VizWiz | TextVQA) or (isinstance(benchmark, GQA) and benchmark.mode == "study"):
        most = max((_num_pieces(example) for example in examples), default=0)
        return lambda text: num_plain_words(text) > most
    return None


def box_is_decided(text: str) -> bool:
    """Return whether both the strict and the lenient parse of a box are decided.

    The lenient parser takes the first bracketed group of four numbers, so there must be one. The strict parse is
    decided if the text does not begin like a Python list, or if the list is followed by anything but white space, a
    comment or a line continuation.
    """
    match = BOX_PATTERN.search(text)
    if match is None:
        return False
    if text[0] not in "[(#\\":
        return True
    is_whole_list = match.start() == 0 and match[0][-1] == "]" and text[0] == "["
    follows = text[match.end() :].lstrip()[:1]
    return is_whole_list and follows not in ("", "#", "\\")


def yes_no_is_decided(text: str) -> bool:
    """Return whether POPE's own script is decided: it reads up to the first period, and a "no" is final."""
    before, _, _ = text.rpartition(" ")  # the last word may still grow
    return "." in text or say_yes_or_no(before) == "no"


def num_plain_words(text: str) -> int:
    """Count the words of a text that survive the normalisation of every scorer of free text.

    Scorers delete punctuation or replace it by spaces, and drop articles; they never join words. So a word of only
    letters and digits survives, unless it is the last one and still growing. An answer with more such words than any
    human answer has pieces matches none of them, however it continues.
    """
    words = text.split()[:-1]
    return sum(bool(_PLAIN_WORD.fullmatch(word)) and word.lower() not in _ARTICLES for word in words)


def _num_pieces(example: Example) -> int:
    """Return the largest number of words in a human answer to an example; at least 1, for "unanswerable"."""
    answers = example.truth if isinstance(example.truth, tuple) else (example.truth,)
    return max((len(_PIECE.findall(str(answer))) for answer in answers), default=1) or 1
