"""Studies on data in folders: text-only records, missing images, tokens that are not cached, wiring as published."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from eyeswap.audit.audit import audit
from eyeswap.data.digits.write import INSTRUCTION_FILE, DigitsSize, write_digits
from eyeswap.errors import DataError, EnvironmentProblem, RunError
from eyeswap.files import read_safetensors
from eyeswap.planning.spec import Study
from eyeswap.progress import progress
from eyeswap.results.run import load_runs
from eyeswap.study.execute import run_study
from eyeswap.study.study_data import prepare_data

FOLDER = Path(INSTRUCTION_FILE).parent


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Official folders with 16 conversations about images and 8 about none."""
    folder = tmp_path_factory.mktemp("folder")
    write_digits(folder, DigitsSize(seed=1, num_train_images=16, num_val_images=3, turns=3))
    records = json.loads((folder / INSTRUCTION_FILE).read_text())
    turns = [{"from": "human", "value": "How many digits are there?"}, {"from": "gpt", "value": "3"}]
    records += [{"id": f"text-{number}", "conversations": turns * (1 + number % 2)} for number in range(8)]
    (folder / INSTRUCTION_FILE).write_text(json.dumps(records))
    return folder


@pytest.fixture
def broken(root: Path, tmp_path: Path) -> Path:
    """The same with one image gone and one cut off."""
    folder = tmp_path / "broken"
    shutil.copytree(root, folder)
    images = [record["image"] for record in json.loads((folder / INSTRUCTION_FILE).read_text())[:2]]
    (folder / FOLDER / images[0]).unlink()
    whole = (folder / FOLDER / images[1]).read_bytes()
    (folder / FOLDER / images[1]).write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def study(tiny_llm: Path) -> Callable[..., Study]:
    def make(folder: Path, arms: dict[str, Any] | None = None, data: Any = None, **recipe: Any) -> Study:
        execution = recipe.pop("execution", {})
        return Study.model_validate(
            {
                "name": "tiny",
                "question": "?",
                "recipe": {
                    "data": {"folder": str(folder), **(data or {})},
                    "llm": str(tiny_llm),
                    "global_batch": 8,
                    "lr": 1e-3,
                    "precision": "fp32",
                    "max_text_tokens": 128,
                    **recipe,
                },
                "arms": arms or {"vit": "digits-vit"},
                "may_differ": ["backbone", "wiring"],
                "benchmarks": ["pope", "refcoco"],
                "execution": {"workers": 1, **execution},
            }
        )

    return make


def run(study: Study, runs: Path) -> tuple[Path, str]:
    said = io.StringIO()
    return run_study(study, Path("tiny.yaml"), runs, Console(file=said, width=200)), said.getvalue()


def losses(run_dir: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run_dir / "train.jsonl").read_text().splitlines()]


def answers(run_dir: Path) -> list[list[object]]:
    files = sorted((run_dir / "predictions").glob("*.parquet"))
    return [pq.read_table(file).select(["example_id", "answer", "score"]).to_pylist() for file in files]


def spec(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "spec.json").read_text())


def test_tokens_made_at_every_step_give_what_the_cache_gives(
    root: Path, study: Callable[..., Study], tmp_path: Path
) -> None:
    cached, _ = run(study(root), tmp_path / "cached")
    live, said = run(study(root, execution={"cache_gb": 0.0}), tmp_path / "live")
    assert "GB of visual tokens, more than execution.cache_gb 0" in said
    assert (cached / "tokens").is_dir()
    assert not (live / "tokens").exists()
    a, b = (folder / "vit" / "seed-7" for folder in (cached, live))
    assert losses(a) == losses(b)
    assert len(losses(a)) == 3  # two batches with images, one of text alone
    assert answers(a) == answers(b)
    assert (a / "model" / "model.safetensors").read_bytes() == (b / "model" / "model.safetensors").read_bytes()
    assert spec(a) == spec(b)


def test_missing_images_are_named_before_anything_is_trained(
    broken: Path, study: Callable[..., Study], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        run(study(broken), tmp_path / "runs")
    told = str(caught.value)
    assert "2 of 24 records show an image that is missing or unreadable" in told
    assert "(no such file)" in told
    assert "recipe.data.skip_missing: true" in told
    assert "\n" not in told
    assert not list((tmp_path / "runs").rglob("spec.json"))


def test_conversations_without_an_answer_left_are_named_and_recorded(
    root: Path, study: Callable[..., Study], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(root, folder)
    records = json.loads((folder / INSTRUCTION_FILE).read_text())
    for number in (0, 20):
        records[number]["conversations"][0]["value"] += " word" * 200
    (folder / INSTRUCTION_FILE).write_text(json.dumps(records))
    runs, said = run(study(folder), tmp_path / "runs")
    assert "2 of 24 conversations contribute no loss: no answer token is left within max_text_tokens 128" in said
    one = runs / "vit" / "seed-7"
    assert spec(one)["left_out"] == {"records": 0, "images": 0, "without_answer": 2}
    assert [row["record"] for row in json.loads((one / "left-out.json").read_text())] == [1, 21]


def test_training_on_no_answer_at_all_is_refused(root: Path, study: Callable[..., Study], tmp_path: Path) -> None:
    with pytest.raises((DataError, RunError)) as caught:
        run(study(root, max_text_tokens=3), tmp_path / "runs")
    assert not list((tmp_path / "runs").rglob("model"))
    assert "none of 24 conversations has an answer to learn from" in str(caught.value)
    assert "raise recipe.max_text_tokens" in str(caught.value)


def test_records_without_their_image_are_left_out_on_demand_and_recorded(
    broken: Path, study: Callable[..., Study], tmp_path: Path
) -> None:
    arms = {"vit": "digits-vit", "vmamba": "digits-vmamba"}
    folder, said = run(study(broken, arms, {"skip_missing": True}), tmp_path)
    assert "2 of 24 records are skipped: their image is missing or unreadable" in said
    one, other = (folder / arm / "seed-7" for arm in arms)
    assert spec(one)["left_out"] == {"records": 2, "images": 2}
    left_out = json.loads((one / "left-out.json").read_text())
    assert [row["record"] for row in left_out] == [1, 2]
    assert left_out[0]["reason"] == "no such file"
    assert "truncated" in left_out[1]["reason"]
    assert spec(one)["order_digest"] == spec(other)["order_digest"]
    assert {"training data", "batch order"} <= {fact.title for fact in audit(load_runs([folder])).equal}


def test_what_is_left_out_is_part_of_the_data_and_looked_for_once(
    root: Path, broken: Path, study: Callable[..., Study], tmp_path: Path
) -> None:
    with progress(Console(quiet=True)) as board:
        whole = prepare_data(study(root), tmp_path / "whole", board)
        partial = prepare_data(study(broken, data={"skip_missing": True}), tmp_path / "partial", board)
        assert whole.digest != partial.digest
        assert (len(whole.instructions), len(partial.instructions)) == (24, 22)
        image = partial.left_out[0].image
        (broken / image).write_bytes((root / image).read_bytes())
        again = prepare_data(study(broken, data={"skip_missing": True}), tmp_path / "partial", board)
    assert (again.digest, again.left_out) == (partial.digest, partial.left_out)


@pytest.mark.extended
def test_a_twin_wired_as_published_trains_beside_its_controlled_one(
    root: Path, study: Callable[..., Study], tmp_path: Path
) -> None:
    arms = {
        "maxvit": "digits-maxvit",
        "maxvit-as-published": {"backbone": "digits-maxvit", "wiring": "as-published"},
    }
    folder, _ = run(study(root, arms), tmp_path)
    controlled, published = (folder / arm / "seed-7" for arm in arms)
    assert spec(controlled)["backbone"]["frozen_mode"] == "eval"
    assert spec(published)["backbone"]["frozen_mode"] == "train"
    assert losses(controlled) != losses(published)
    report = audit(load_runs([folder]))
    assert not report.undeclared
    assert {"frozen mode", "connector start"} <= {fact.title for fact in report.declared}
    assert any("was not in eval mode" in finding.message for finding in report.warnings)


@pytest.mark.extended
def test_two_processes_under_torchrun_do_what_one_does(root: Path, study: Callable[..., Study], tmp_path: Path) -> None:
    asked = study(root, lora_rank=2, micro_batch=4)
    one, _ = run(asked, tmp_path / "one")
    file = tmp_path / "tiny.yaml"
    file.write_text(json.dumps(asked.model_dump(mode="json", exclude={"name"})))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "eyeswap.cli"]
    done = subprocess.run(
        [sys.executable, *command, "study", "run", str(file), "--runs", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    a, b = (folder / "tiny" / "vit" / "seed-7" for folder in (one.parent, tmp_path / "two"))
    assert losses(b) == pytest.approx(losses(a), rel=1e-5)
    assert spec(b) == spec(a)
    saved, wanted = (read_safetensors(folder / "model" / "model.safetensors") for folder in (b, a))
    assert saved.keys() == wanted.keys()
    assert all(torch.allclose(saved[key], wanted[key], rtol=1e-3, atol=1e-4) for key in wanted)
    assert [len(rows) for rows in answers(b)] == [len(rows) for rows in answers(a)]
    assert done.stdout.count("report: ") == 1


def test_another_connector_reads_the_tokens_that_a_study_left(
    root: Path, study: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EYESWAP_TOKENS", str(tmp_path / "tokens"))
    run(study(root), tmp_path / "first")
    (store,) = (tmp_path / "tokens").glob("*/tokens.f16")
    content = store.read_bytes()
    monkeypatch.setattr("eyeswap.tokens.cache.encode", None)  # the backbone is not run again
    beyond = study(root, connector="linear", execution={"cache_gb": 0.0})  # what is there is used, whatever its size
    folder, _ = run(beyond, tmp_path / "second")
    assert (folder / "vit" / "seed-7" / "scores.json").is_file()
    assert list((tmp_path / "tokens").glob("*/tokens.f16")) == [store]
    assert store.read_bytes() == content


def test_an_image_that_changed_between_arms_is_named_and_the_second_arm_refused(
    root: Path, study: Callable[..., Study], tmp_path: Path
) -> None:
    shutil.copytree(root, folder := tmp_path / "data")
    run(study(folder), tmp_path)
    image = folder / FOLDER / json.loads((folder / INSTRUCTION_FILE).read_text())[0]["image"]
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(RunError):
        run(study(folder, {"vit": "digits-vit", "maxvit": "digits-maxvit"}), tmp_path)
    events = (tmp_path / "tiny" / "maxvit" / "seed-7").rglob("*.json")
    assert any("images of training have changed since vit, seed 7 saw them" in path.read_text() for path in events)
    assert not (tmp_path / "tiny" / "maxvit" / "seed-7" / "train.jsonl").exists()


def test_own_data_in_the_same_format_need_nothing_but_their_place(
    root: Path, study: Callable[..., Study], tmp_path: Path
) -> None:
    records = json.loads((root / INSTRUCTION_FILE).read_text())[:3]
    for record in records:
        record["image"] = f"{FOLDER.as_posix()}/{record['image']}"
    (root / "mine.json").write_text(json.dumps(records))
    with progress(Console(quiet=True)) as board:
        data = prepare_data(study(root, data={"instruction": "mine.json"}), tmp_path, board)
    assert [one.image for one in data.instructions] == [record["image"] for record in records]
    assert all((root / one.image).is_file() for one in data.instructions)


def test_adapters_without_peft_are_refused_before_anything_is_done(
    root: Path, study: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(EnvironmentProblem, match="needs peft"):
        run(study(root, lora_rank=2), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
