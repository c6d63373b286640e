"""Benchmarks and their scorers: the registry of the eleven reported columns and of further test splits.

TextVQA is asked twice, with and without OCR tokens, and counts as two columns.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eyeswap.errors import SpecError, nearest
from eyeswap.evaluation.benchmark import Benchmark, Mode, Outcome
from eyeswap.evaluation.counting import TallyQA
from eyeswap.evaluation.custom import load_custom
from eyeswap.evaluation.gqa import GQA
from eyeswap.evaluation.grounding import OCIDRef, RefCOCO
from eyeswap.evaluation.hallucination import POPE
from eyeswap.evaluation.vqa import TextVQA, VizWiz, VQAv2

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

# Splits that the same files contain and the study does not report.
_TEST_SPLITS: tuple[Benchmark, ...] = (
    RefCOCO("refcoco-testA", "RefCOCO testA", "refcoco", 5_657, part="testA"),
    RefCOCO("refcoco-testB", "RefCOCO testB", "refcoco", 5_095, part="testB"),
    RefCOCO("refcoco+-testA", "RefCOCO+ testA", "refcoco", 5_726, part="testA"),
    RefCOCO("refcoco+-testB", "RefCOCO+ testB", "refcoco", 4_889, part="testB"),
    RefCOCO("refcocog-test", "RefCOCOg test", "refcoco", 9_602, part="test"),
    RefCOCO("refcocog-google", "RefCOCOg val (Google)", "refcoco", 9_536, part="google-val"),
    OCIDRef("ocid-ref-test", "OCID-Ref test", "ocid-ref", 27_513, part="test"),
)
TEST_SPLITS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _TEST_SPLITS}

__all__ = ["BENCHMARKS", "TEST_SPLITS", "Benchmark", "Outcome", "get_benchmark"]


def get_benchmark(name: str, mode: Mode = "study") -> Benchmark:
    """Return a benchmark by name, or a custom one by the path of its YAML file.

    Raises:
        SpecError: if there is no such benchmark, or the YAML file has an unknown key or value.
        DataError: if a row of a custom benchmark does not have the documented form.
    """
    known = BENCHMARKS | TEST_SPLITS
    if name.endswith((".yaml", ".yml")):
        benchmark: Benchmark = load_custom(Path(name))
        if benchmark.name in known:
            raise SpecError(f"{name}: {benchmark.name} is the name of a built-in benchmark; rename the file")
    elif name in known:
        benchmark = known[name]
    else:
        raise SpecError(f'unknown benchmark "{name}". {nearest(name, known)}')
    return replace(benchmark, mode=mode)
