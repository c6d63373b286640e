"""Commands of README and docs run, one after another, on a study of the quickstart's name that takes seconds.

What would fetch official files, train on them, or start many processes is only parsed (`test_docs.py`).
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from test_docs import PAGES, ROOT, promised
from typer.testing import CliRunner

from eyeswap.cli.main import app

pytestmark = pytest.mark.extended
COSTLY = (
    r"data (fetch|prepare|check)",  # official files
    r"models (fetch|import|export|push|pull)",
    r"ask models/",
    r"tokens cache",
    r"train (?!.*--dry-run)",
    r"pretrain",
    r"adapt",  # tests/adaptation
    r"backbones (check|convert)",
    r"study run (studies/paper|FILE|mine)",
    r".*--watch",
    r"serve",
    r"check timm:",
    r"doctor",  # tests/cli/test_doctor.py
    r"profile",
    r"score .*--box-frame",  # needs answers with boxes, which the tiny LLM never gives
    r"probe",  # tests/probing
    r"predictors",  # tests/results/test_predict.py
    r"check --connector",  # its own page's test
    r"study run .*seeds=\[7,8,9\]",  # three times the run that the others look at
    r"report (pooled|.*--margin)",  # one report is enough
)
TINY = {"name": "digits", "num_train_images": 8, "num_val_images": 24, "turns": 2}


def commands() -> list[list[str]]:
    """Return the documented commands of eyeswap that are cheap, each once."""
    lines: dict[str, None] = {}
    for page, words in promised():
        if page.name != "CHANGELOG.md" and words[0] == "eyeswap":
            lines[shlex.join(words[1:])] = None
    return [shlex.split(line) for line in lines if not any(re.match(pattern, line) for pattern in COSTLY)]


@pytest.fixture(scope="module")
def checkout(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout in which the quickstart was run, with two arms and few images."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("studies", "recipes"):
        shutil.copytree(ROOT / name, folder / name)
    quickstart = folder / "studies" / "quickstart.yaml"
    study = yaml.safe_load(quickstart.read_text(encoding="utf-8"))
    study["recipe"] |= {"data": TINY, "llm": str(tiny_llm), "global_batch": 4, "max_text_tokens": 64}
    study["arms"] = {arm: study["arms"][arm] for arm in ("vit", "vmamba")}
    quickstart.write_text(yaml.safe_dump(study), encoding="utf-8")
    encoder = re.search(r"```python\n(\"\"\"my_encoder.py.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert encoder
    (folder / "my_encoder.py").write_text(encoder[1], encoding="utf-8")
    with contextlib.chdir(folder):
        (folder / "first-run.txt").write_text(run(["study", "run", "studies/quickstart.yaml"]), encoding="utf-8")
    return folder


@pytest.fixture
def inside(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(checkout)
    return checkout


def run(words: list[str]) -> str:
    result = CliRunner().invoke(app, words, input="image studies/scene.jpg\nHow many digits are there?\nquit\n")
    assert result.exit_code == 0, f"eyeswap {shlex.join(words)}\n{result.output}"
    return result.output


def test_the_quickstart_runs_and_a_second_call_finds_everything_done(inside: Path) -> None:
    assert "report: runs/quickstart/report/report.html" in (inside / "first-run.txt").read_text()
    assert "all 2 runs of quickstart are done" in run(["study", "run", "studies/quickstart.yaml"])
    log = (inside / "runs" / "quickstart" / "vit" / "seed-7" / "run.log").read_text()
    assert "vit: training connector and LLM: 2/2" in log


def test_facts_are_printed_as_json_too(inside: Path) -> None:
    assert json.loads(run(["report", "runs/quickstart", "--json"]))["study"]
    assert json.loads(run(["study", "status", "studies/quickstart.yaml", "--json"]))["runs"]


@pytest.mark.parametrize("words", commands(), ids=shlex.join)
def test_a_documented_command_runs(inside: Path, words: list[str]) -> None:
    line = shlex.join(words).replace("runs/tutorial/mine/digits-", "runs/quickstart/")
    assert run(shlex.split(line.replace("runs/tutorial/mine", "runs/quickstart"))).strip()


def test_most_pages_have_commands_that_run() -> None:
    assert len(commands()) > 25
    assert len(PAGES) > 15
