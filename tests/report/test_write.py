import csv
import json
import re
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from eyeswap.files import read_json, write_json
from eyeswap.report import analyse, terminal_report, write_report
from eyeswap.report.analysis.fixed import fact_rows
from eyeswap.report.analysis.study import RECORD_KEYS, gather
from eyeswap.report.figures import plots
from eyeswap.report.writers.examples import example_data
from eyeswap.report.writers.markdown import markdown

VOID = {"meta", "input", "img", "br", "link", "hr"}


class Tags(HTMLParser):
    """Checks that tags close in order, and collects ids and links."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[key] for key in ("href", "src", "xlink:href") if key in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(study_dir):
    return write_report(analyse(study_dir))


@pytest.fixture(scope="module")
def page(written):
    return written["report.html"].read_text()


def page_data(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL).group(1))


def test_all_files_lie_in_the_report_folder(study_dir, written):
    assert {path.name for path in (study_dir / "report").iterdir()} == set(written)


def test_the_page_is_whole_and_asks_nothing_of_the_network(page):
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    inside = [link for link in tags.links if not link.startswith("data:")]
    assert all(link.startswith("#") for link in inside)
    assert {link[1:] for link in inside} <= set(tags.ids)
    assert not re.search(r"url\(\s*['\"]?https?:|@import|fetch\(", page)
    assert "default-src 'none'" in page
    assert len(page.encode()) < 8_000_000


def test_the_page_tells_the_verdict_in_words_first(page):
    verdict = page.index("leads in localization; VQA is not decided.")
    assert verdict < page.index("<svg")
    assert verdict < page.index("<table")


def test_figures_follow_the_theme_and_keep_text_as_text(study_dir, page):
    figures = re.findall(r"<svg role.*?</svg>", page, re.DOTALL)
    assert len(figures) == 2 * len(plots(analyse(study_dir)))
    for figure in figures:
        assert 'aria-label="' in figure
        assert "<text" in figure
        assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r'(id="|href="#|url\(#)[^")]*', "", figure))
    assert all(name in figures[0] for name in ("vit", "maxvit", "vmamba", "mambavision"))


def test_examples_are_balanced_and_their_images_are_inside(page):
    data = page_data(page)
    counts = [sum(one["benchmark"] == i for one in data["examples"]) for i in range(len(data["benchmarks"]))]
    assert counts == [12] * 5
    assert all(image["uri"].startswith("data:image/") for image in data["images"])
    assert len({round(image["width"] / image["height"], 2) for image in data["images"]}) >= 5
    boxed = [one for one in data["examples"] if one["truthBox"]]
    assert len(boxed) == 24
    assert any(answer["invalid"] and answer["box"] is None for one in boxed for answer in one["answers"])


@pytest.mark.extended
def test_the_same_study_writes_the_same_bytes_again(study_dir, written):
    before = {name: path.read_bytes() for name, path in written.items()}
    assert {name: path.read_bytes() for name, path in write_report(analyse(study_dir)).items()} == before


def test_the_long_table_has_one_row_a_run_and_score(study_dir, written):
    rows = list(csv.DictReader(written["results.csv"].read_text().splitlines()))
    assert tuple(rows[0]) == RECORD_KEYS
    assert len(rows) == 4 * (5 + 3)
    stored = read_json(study_dir / "vit" / "seed-7" / "scores.json")["benchmarks"]["pope"]
    row = next(row for row in rows if (row["arm"], row["benchmark"]) == ("vit", "pope"))
    assert (float(row["score"]), float(row["gain_low"])) == (stored["score"], stored["gain"]["interval"][0])


def test_json_and_markdown_say_the_same_as_the_page(written, page):
    results = read_json(written["results.json"])
    text = written["report.md"].read_text()
    assert results["verdict"]["headline"] in text
    assert len(results["comparisons"]["averages"]) == 18
    assert len(results["comparisons"]["benchmarks"]) == 30
    for value in (arm["averages"]["localization"]["value"] for arm in results["arms"].values()):
        assert f"{value:.1f}" in text
        assert f"{value:.1f}" in page
    assert "| recipe | equal |" in text


def test_the_terminal_table_fits_eighty_columns_and_marks_weak_scores(study_dir):
    analysis = analyse(study_dir)
    results = analysis.results
    console = Console(width=80)
    with console.capture() as capture:
        console.print(terminal_report(analysis))
    text = capture.get()
    assert text.index("vmamba leads in localization") < text.index("mambavision  ")
    assert "…" not in text
    assert all(name in text for name in ("vit", "mambavision", "baseline", "OCID-Ref", "318k"))
    for arm in results.arms:
        for one in arm.scores.benchmarks.values():
            mark = "" if one.score.beats_baseline else "†"
            assert f"{one.score.value:.1f}{mark}" in text
    assert "†" in text


def test_the_terminal_names_arms_that_are_not_finished(make_study):
    study = make_study(arms=("vit", "vmamba", "maxvit"), unfinished=("vmamba",))
    console = Console(width=80)
    with console.capture() as capture:
        console.print(terminal_report(analyse(study)))
    assert "vmamba (seed 7: no scores yet" in capture.get()
    assert "maxvit" in capture.get()


def test_a_study_without_any_result_still_has_a_page(make_study):
    study = make_study(arms=("vit",), unfinished=("vit",))
    page = write_report(analyse(study))["report.html"].read_text()
    Tags().feed(page)
    assert "Not decided: there are no two finished arms to compare." in page
    assert "<table" not in page


def test_an_unfinished_study_of_several_seeds_is_reported_as_far_as_it_is(make_study, no_drawing):
    study = make_study(arms=("vit", "vmamba", "maxvit"), seeds=(1, 2), unfinished=("maxvit",))
    page = write_report(analyse(study))["report.html"].read_text()
    assert "Not in this report: " in page
    assert "seed 1: no scores yet (training step 240); seed 2: no scores yet" in page
    assert "2 seeds per arm" in page
    assert "Answers are from the first seed." in page


def test_what_a_model_says_cannot_become_markup(make_study, no_drawing):
    study = make_study(arms=("vit", "maxvit"))
    content = read_json(study / "study.json")
    content["question"] = "Is <b>bold</b> & </script><script>alert(1)</script> safe?"
    write_json(study / "study.json", content)
    rows = study / "vit" / "seed-7" / "predictions" / "pope.parquet"
    table = pq.read_table(rows)
    evil = pa.array(["</script><img src=x onerror=alert(1)>"] * table.num_rows)
    pq.write_table(table.set_column(table.column_names.index("answer"), "answer", evil), rows)
    page = write_report(analyse(study))["report.html"].read_text()
    assert "alert(1)</script> safe" not in page
    assert "<img src=x" not in page
    assert page_data(page)["examples"]
    assert any("onerror" in answer["text"] for one in page_data(page)["examples"] for answer in one["answers"])


def test_missing_images_leave_the_examples_without_them(make_study):
    study = make_study(arms=("vit", "maxvit"))
    for image in (study / "data" / "images").iterdir():
        image.unlink()
    data = example_data(gather(study))
    assert set(data["images"]) == {None}
    assert len(data["examples"]) == 60


def test_an_undeclared_difference_comes_first(make_study):
    study = make_study(arms=("vit", "maxvit"))
    path = study / "maxvit" / "seed-7" / "spec.json"
    write_json(path, read_json(path) | {"recipe_digest": "f" * 64})
    analysis = analyse(study)
    assert next((row.title, row.verdict) for row in fact_rows(analysis.audit)) == ("recipe", "undeclared")
    assert "| recipe | undeclared |" in markdown(analysis)
