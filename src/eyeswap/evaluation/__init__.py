"""Benchmarks and how answers are scored; the registry of all eleven reported columns.

TextVQA is asked twice, with and without OCR tokens, and counts as two columns.
"""

from __future__ import annotations

from dataclasses import replace

from eyeswap.errors import SpecError, nearest
from eyeswap.evaluation.benchmark import Benchmark, Mode, Outcome
from eyeswap.evaluation.counting import TallyQA
from eyeswap.evaluation.grounding import OCIDRef, RefCOCO
from eyeswap.evaluation.hallucination import POPE
from eyeswap.evaluation.vqa import GQA, TextVQA, VizWiz, VQAv2

_ALL: tuple[Benchmark, ...] = (
    VQAv2("vqav2", "VQA v2", "vqa-v2", 214_354),
    GQA("gqa", "GQA", "gqa", 12_578),
    VizWiz("vizwiz", "VizWiz", "vizwiz", 4_319),
    TextVQA("textvqa-ocr", "TextVQA (OCR)", "text-vqa", 5_000, with_ocr=True),
    TextVQA("textvqa-pure", "TextVQA (pure)", "text-vqa", 5_000),
    POPE("pope", "POPE", "pope", 8_910),
    TallyQA("tallyqa", "TallyQA", "tally-qa", 38_589),
    RefCOCO("refcoco", "RefCOCO", "refcoco", 10_834),
    RefCOCO("refcoco+", "RefCOCO+", "refcoco", 10_758),
    RefCOCO("refcocog", "RefCOCOg", "refcoco", 4_896),
    OCIDRef("ocid-ref", "OCID-Ref", "ocid-ref", 18_342),
)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}

__all__ = ["BENCHMARKS", "Benchmark", "Outcome", "get_benchmark"]


def get_benchmark(name: str, mode: Mode = "study") -> Benchmark:
    """Return a benchmark by name.

    Raises:
        SpecError: if there is none of that name.
    """
    if name not in BENCHMARKS:
        raise SpecError(f"benchmark {name!r} does not exist. {nearest(name, BENCHMARKS)}")
    return replace(BENCHMARKS[name], mode=mode)
