"""When an answer is decided: no continuation can change its score, its box, or whether it is valid.

The study generates until the end of the sequence, at most 128 tokens. Trained models end after a few; one that
rambles on costs 128 for an answer that was lost after ten. The rules here end such answers early. None of them
looks at the truth of the question at hand, and none applies where a score could still change.
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
    """Return the rule that says when an answer to a benchmark is decided; None if only its end decides.

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
    """Return whether both readings of a box are settled.

    The lenient reading takes the first bracketed group of four numbers, so that must be there. The strict
    reading is settled if the text began as no Python list can, or if the list is followed by what no list may be
    followed by: anything but white space, a comment or a continued line.
    """
    found = BOX_PATTERN.search(text)
    if found is None:
        return False
    if text[0] not in "[(#\\":
        return True
    is_whole_list = found.start() == 0 and found[0][-1] == "]" and text[0] == "["
    follows = text[found.end() :].lstrip()[:1]
    return is_whole_list and follows not in ("", "#", "\\")


def yes_no_is_decided(text: str) -> bool:
    """Return whether POPE's own script has made up its mind: it stops at the first period, or has read a no."""
    before, _, _ = text.rpartition(" ")  # the last word may still grow
    return "." in text or say_yes_or_no(before) == "no"


def num_plain_words(text: str) -> int:
    """Count the words that every scorer of free text keeps as words of their own.

    Scorers delete marks, or put spaces in their place, and drop articles; they never join what white space parts. So
    a word of letters and digits alone stays, unless it is the last and still grows. An answer with more of them
    than any human answer has pieces matches none, whatever follows.
    """
    words = text.split()[:-1]
    return sum(bool(_PLAIN_WORD.fullmatch(word)) and word.lower() not in _ARTICLES for word in words)


def _num_pieces(example: Example) -> int:
    """Return the most words that a scorer could see in a human answer to an example; at least one, "unanswerable"."""
    answers = example.truth if isinstance(example.truth, tuple) else (example.truth,)
    return max((len(_PIECE.findall(str(answer))) for answer in answers), default=1) or 1
