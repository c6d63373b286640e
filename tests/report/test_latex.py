"""LaTeX tables: they compile where LaTeX is at hand, say what the report says, and survive strange names."""

import re
import shutil
import subprocess

import pytest

from eyeswap.files import read_json, write_json
from eyeswap.report.analysis.analysis import analyse
from eyeswap.report.writers.latex import latex


def tables(folder):
    analysis = analyse(folder)
    return latex(analysis), analysis.results


def test_every_score_stands_in_its_cell_and_the_best_is_bold(study_dir):
    text, results = tables(study_dir)
    for arm in results.finished_arms:
        line = next(line for line in text.splitlines() if line.startswith(f"{arm.name},"))
        cells = [re.sub(r"\\(textbf|underline)\{(.*?)\}", r"\2", cell).strip(" \\") for cell in line.split("&")[1:]]
        assert cells == [f"{arm.scores.averages[group].value:.1f}" for group in results.groups]
    averages, benchmarks = text.split(r"\begin{table}")[1:]
    assert averages.count(r"\textbf") == len(results.groups)
    assert benchmarks.count(r"\textbf") == len(results.benchmarks)


def test_only_decided_differences_are_left_without_a_line(study_dir):
    text, results = tables(study_dir)
    pairs = analyse(study_dir).averages
    best = max(results.finished_arms, key=lambda arm: arm.scores.averages["localization"].value).name
    column = results.groups.index("localization") + 1
    for arm in results.finished_arms:
        if arm.name == best:
            continue
        line = next(line for line in text.splitlines() if line.startswith(f"{arm.name},"))
        decided = any(p.decided for p in pairs if p.where == "localization" and {p.ahead, p.behind} == {arm.name, best})
        assert (r"\underline" in line.split("&")[column]) != decided


def test_a_question_with_special_characters_is_escaped(make_study):
    folder = make_study(num_examples=30)
    study = read_json(folder / "study.json")
    write_json(folder / "study.json", {**study, "question": r"50% of {a_b} & #1 \cost $2 ~^?"})
    text, _ = tables(folder)
    assert r"50\% of \{a\_b\} \& \#1 \textbackslash{}cost \$2 \textasciitilde{}\textasciicircum{}?" in text


def test_a_study_without_results_gives_a_comment(make_study):
    folder = make_study(arms=("vit",), unfinished=("vit",), num_examples=10)
    assert tables(folder)[0].startswith("%")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_it_compiles(study_dir, tmp_path):
    document = (
        rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{tables(study_dir)[0]}\end{{document}}"
    )
    (tmp_path / "page.tex").write_text(document)
    subprocess.run(["pdflatex", "-halt-on-error", "page.tex"], cwd=tmp_path, check=True, capture_output=True)
