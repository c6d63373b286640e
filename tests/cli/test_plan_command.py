"""`eyeswap study plan` says in advance what a study or a recipe takes, for people and for programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eyeswap.cli.main import app
from eyeswap.cli.plan import duration, scaled
from eyeswap.planning.plan import plan_runs
from eyeswap.planning.spec import load_study
from planned_runs import finish_run

STUDY = """\
question: What does it take?
recipe: {data: {folder: absent}, llm: lmsys/vicuna-7b-v1.5}
arms:
  small: digits-vmamba
  large: {backbone: digits-vmamba, geometry: corner-letterbox-1024}
may_differ: [backbone, geometry]
benchmarks: [pope]
seeds: [7, 8]
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "takes.yaml"
    path.write_text(STUDY, encoding="utf-8")
    return path


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_plan_shows_every_arm_and_stops_at_those_that_cannot_run(study: Path) -> None:
    result = run("study", "plan", study)
    assert result.exit_code == 2
    assert "problem: arms.large: 4,096 visual tokens fill the 4,096 positions" in result.stdout
    assert "4 runs, seed 7, 8: 4 new" in result.stdout
    assert "GPU time of unfinished runs: " in result.stdout
    study.write_text(STUDY + "beyond_positions: allow\n", encoding="utf-8")
    assert run("study", "plan", study).exit_code == 0


def test_a_plan_as_json_holds_the_numbers_and_what_they_assume(study: Path) -> None:
    found = json.loads(run("study", "plan", study, "--json", "--gpu", "100:80", "--mfu", "0.5").stdout)
    assert found["arms"]["small"]["visual_tokens"] == 64
    assert found["assumptions"]["gpu"] == {"name": "100:80", "peak_tflops": 100.0, "memory_gib": 80.0}
    flops, hours = found["arms"]["small"]["train_flops"], found["arms"]["small"]["train_gpu_hours"]
    assert hours == pytest.approx(flops / 50e12 / 3600)
    assert found["workload"]["steps"] == 5198


def test_a_recipe_is_estimated_by_visual_tokens(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: absent\nllm: lmsys/vicuna-7b-v1.5\n", encoding="utf-8")
    result = run("study", "plan", path)
    assert result.exit_code == 0
    assert "196 tokens" in result.stdout
    found = json.loads(run("study", "plan", path, "--json", "--mfu", "0.6").stdout)
    assert found["arms"]["196 tokens"]["train_gpu_hours"] == pytest.approx(6.2, rel=0.02)


def test_a_plan_lists_every_run_with_its_digest_and_state(study: Path, tmp_path: Path) -> None:
    study.write_text(STUDY + "beyond_positions: allow\n", encoding="utf-8")
    result = run("study", "plan", study, "--runs", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    assert "4 runs, seed 7, 8: 4 new" in result.stdout
    found = json.loads(run("study", "plan", study, "--json", "--runs", tmp_path / "runs").stdout)
    assert [(one["arm"], one["seed"], one["state"]) for one in found["runs"]] == [
        ("small", 7, "new"), ("large", 7, "new"), ("small", 8, "new"), ("large", 8, "new"),
    ]  # fmt: skip
    assert len({one["digest"] for one in found["runs"]}) == 4
    done = plan_runs(load_study(study), tmp_path / "runs")[0]
    assert str(done.folder) == found["runs"][0]["folder"]
    finish_run(done)
    assert "4 runs, seed 7, 8: 1 done, 3 new" in run("study", "plan", study, "--runs", tmp_path / "runs").stdout


def test_a_change_of_the_study_is_planned_and_one_seed_says_what_it_cannot_decide(study: Path) -> None:
    whole = run("study", "plan", study)
    assert "4 runs, seed 7, 8" in whole.stdout
    assert "cannot decide" not in whole.stdout
    once = run("study", "plan", study, "--set", "seeds=[7]")
    assert "2 runs, seed 7:" in once.stdout
    assert "it cannot decide which arm is better" in " ".join(once.stdout.split())
    stated = run("study", "plan", study, "--set", "seeds=[7]", "--set", "seed_sd={vqa: 1.0}")
    assert "cannot decide" not in stated.stdout


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("seeds", "--set seeds: write key=value"),
        ("seeds=[]", "seeds: list should have at least 1 item"),
        ("name=other", "name: a study is named after its file"),
        ("seed_sd={vqa: -1}", "seed_sd.vqa: should be greater than 0"),
        ("seed_sd=1.0", "seed_sd: expected a mapping of keys to values, got 1.0"),
        ("seed_sd={vqa: 1, detection: 2}", "seed_sd.detection: unknown key. Allowed: vqa, localization, overall"),
        ("seed_sd={source: us}", "seed_sd: states nothing; write vqa, localization or overall"),
    ],
)
def test_a_change_that_cannot_be_is_one_line(study: Path, change: str, says: str) -> None:
    from eyeswap.errors import SpecError

    with pytest.raises(SpecError, match=re.escape(says)) as told:
        load_study(study, [change])
    assert "\n" not in str(told.value)


PAPER = sorted((Path(__file__).parents[2] / "studies" / "paper").glob("*.yaml"))


@pytest.mark.parametrize("file", PAPER, ids=[file.stem for file in PAPER])
def test_studies_of_the_paper_run_three_seeds_and_one_where_asked(file: Path) -> None:
    assert len(load_study(file).seeds) >= 3
    once = load_study(file, ["seeds=[7]"])
    assert once.seeds == (7,)
    assert [run.seed for run in plan_runs(once, Path("runs"))] == [7] * len(once.arms)


@pytest.mark.parametrize("option", [("--gpu", "h300"), ("--mfu", "40"), ("--gpus", "0")])
def test_impossible_options_are_one_line(study: Path, option: tuple[str, str]) -> None:
    result = run("study", "plan", study, *option)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_numbers_read_well() -> None:
    assert [scaled(value, "kMB") for value in (0, 999, 33_024, 31_276_224, 6.74e9)] == [
        "0",
        "999",
        "33.0k",
        "31.3M",
        "6.7B",
    ]
    assert [duration(hours) for hours in (0.001, 0.5, 1.5, 250, None)] == ["3.6 s", "30 min", "1.5 h", "250 h", "?"]


def test_plans_of_shipped_studies_and_the_list_of_backbones_import_nothing_heavy(tmp_path: Path) -> None:
    heavy = ("torch", "transformers", "scipy", "sklearn", "matplotlib")
    studies = Path(__file__).parents[2] / "studies"
    commands = [["backbones", "list"]]
    commands += [["study", "plan", str(studies / name)] for name in ("quickstart.yaml", "paper/matched-in1k-224.yaml")]
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom eyeswap.cli.main import app\n"
        f"for words in {commands!r}:\n"
        "    result = CliRunner().invoke(app, words)\n    assert result.exit_code == 0, result.output\n"
        f"sys.exit(' '.join(set({heavy!r}) & set(sys.modules)) or 0)"
    )
    environment = {**os.environ, "EYESWAP_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
