"""Write a study's report: everything in ``<study>/report``, from the run folders alone."""

from __future__ import annotations

from pathlib import Path

from eyeswap.files import write_json, write_text
from eyeswap.report.compare import compare_averages, compare_benchmarks
from eyeswap.report.fixed import audited
from eyeswap.report.gather import gather
from eyeswap.report.latex import latex
from eyeswap.report.page import render
from eyeswap.report.tables import as_json, long_csv, markdown
from eyeswap.report.verdict import judge


def write_report(study_dir: Path) -> dict[str, Path]:
    """Write ``report.html``, ``report.md``, ``tables.tex``, ``results.csv``, ``results.json``; return paths by name.

    Raises:
        DataError: naming the file of the study that is missing or damaged.
    """
    results = gather(study_dir)
    averages, benchmarks = compare_averages(results), compare_benchmarks(results)
    verdict, audit = judge(results, averages), audited(results)
    folder = study_dir / "report"
    paths = {name: folder / name for name in ("report.html", "report.md", "tables.tex", "results.csv", "results.json")}
    write_json(paths["results.json"], as_json(results, verdict, averages, benchmarks, audit))
    write_text(paths["results.csv"], long_csv(results))
    write_text(paths["report.md"], markdown(results, verdict, averages, audit))
    write_text(paths["tables.tex"], latex(results, averages, benchmarks))
    write_text(paths["report.html"], render(results, verdict, averages, benchmarks, audit))
    return paths
