"""Records broken one at a time, each under a new seal: every one makes the audit fail, and says why."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sound_pair import SEED, write_sound
from typer.testing import CliRunner

from eyeswap.audit.audit import AuditReport, audit
from eyeswap.cli.main import app
from eyeswap.files import digest
from eyeswap.results.run import load_runs
from eyeswap.results.scores import write_scores
from eyeswap.runs.seal import write_seal

Break = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sound(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def study(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "sound")


def second(study: Path) -> Path:
    return study / "vmamba" / f"seed-{SEED}"


def audited(study: Path) -> AuditReport:
    return audit(load_runs([study]))


def edited(file: str, how: Callable[[dict[str, Any]], object]) -> Break:
    """Break a JSON file."""

    def change(run: Path) -> None:
        content = json.loads((run / file).read_text(encoding="utf-8"))
        how(content)
        (run / file).write_text(json.dumps(content), encoding="utf-8")

    return change


def put(file: str, place: str, value: Any) -> Break:
    """Put a value into a JSON file, at a place such as ``backbone.tap``."""

    def how(content: dict[str, Any]) -> None:
        *way, last = place.split(".")
        for key in way:
            content = content[key]
        content[last] = value

    return edited(file, how)


def other_recipe(run: Path) -> None:
    def how(spec: dict[str, Any]) -> None:
        spec["recipe"]["precision"] = "fp32"
        spec["recipe_digest"] = digest(spec["recipe"])

    edited("spec.json", how)(run)


def rows(benchmark: str, how: Callable[[pa.Table], pa.Table], scored: bool = True) -> Break:
    """Break the answers to a benchmark, and write the scores that then follow from them."""

    def change(run: Path) -> None:
        path = run / "predictions" / f"{benchmark}.parquet"
        pq.write_table(how(pq.read_table(path)), path)
        if scored:
            write_scores(run)

    return change


def column(name: str, values: Callable[[list[Any]], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    def how(table: pa.Table) -> pa.Table:
        place = table.column_names.index(name)
        return table.set_column(place, table.schema.field(name), [values(table.column(name).to_pylist())])

    return how


def all_of(value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [value] * len(values)


def swapped(one: str, other: str) -> Callable[[pa.Table], pa.Table]:
    def how(table: pa.Table) -> pa.Table:
        names = {one: other, other: one}
        return table.rename_columns([names.get(name, name) for name in table.column_names]).select(table.column_names)

    return how


def answers_of_the_other_arm(run: Path) -> None:
    shutil.copy(run.parents[1] / "maxvit" / run.name / "predictions" / "pope.parquet", run / "predictions")
    write_scores(run)


def cut_short(run: Path) -> None:
    path = run / "predictions" / "pope.parquet"
    path.write_bytes(path.read_bytes()[:-200])


def other_tokenizer(run: Path) -> None:
    (run / "model" / "tokenizer.json").write_text('{"version": "other"}', encoding="utf-8")


def first(value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [value, *values[1:]]


def log(how: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Break:
    def change(run: Path) -> None:
        path = run / "train.jsonl"
        kept = how([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
        path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")

    return change


def unreadable(table: pa.Table) -> pa.Table:
    """Say of eight questions that their image could not be read."""
    lost = [number < 8 for number in range(table.num_rows)]
    table = column("error", lambda _: ["no image" if one else None for one in lost])(table)
    table = column("answer", lambda old: ["" if one else text for one, text in zip(lost, old, strict=True)])(table)
    table = column("box", lambda old: [None if one else box for one, box in zip(lost, old, strict=True)])(table)
    table = column("iou", lambda old: [None if one else iou for one, iou in zip(lost, old, strict=True)])(table)
    return column("score", lambda old: [0.0 if one else score for one, score in zip(lost, old, strict=True)])(table)


# What is broken in the second run, and what the audit calls it: an undeclared difference or an error, by name.
BROKEN: dict[str, tuple[Break, str]] = {
    "training data": (put("spec.json", "data_digest", "other"), "training data"),
    "images' bytes": (put("spec.json", "image_digests.training", "sampled:9"), "image files"),
    "left-out records": (put("spec.json", "left_out", {"records": 5, "images": 5}), "left-out records"),
    "batch order": (put("spec.json", "order_digest", "other"), "batch order"),
    "number of steps": (put("spec.json", "num_steps", 29), "training steps"),
    "training prompt": (put("spec.json", "train_prompt", "other"), "training prompt"),
    "test prompt": (put("spec.json", "test_prompt", "other"), "test prompt"),
    "precision": (other_recipe, "recipe"),
    "recipe's digest": (put("spec.json", "recipe_digest", "0" * 64), "contradiction"),
    "LLM": (put("spec.json", "llm.name", "other"), "LLM"),
    "LLM's weights": (put("spec.json", "llm.sha256", "other"), "LLM weights"),
    "connector": (put("spec.json", "connector.kind", "linear"), "contradiction"),
    "connector's start": (put("spec.json", "connector.init_digest", "other"), "contradiction"),
    "backbone": (put("spec.json", "backbone.name", "digits-vit"), "contradiction"),
    "backbone's weights": (put("spec.json", "backbone.weights_sha256", "0" * 64), "contradiction"),
    "width": (put("spec.json", "backbone.embed_dim", 64), "contradiction"),
    "parameters": (put("spec.json", "backbone.num_parameters", 1_000_000), "contradiction"),
    "token grid": (put("spec.json", "backbone.token_grid", [16, 16]), "contradiction"),
    "canvas": (put("spec.json", "backbone.geometry.canvas", [64, 64]), "image geometry"),
    "train mode": (put("spec.json", "backbone.frozen_mode", "train"), "frozen mode"),
    "frame of boxes": (put("spec.json", "test_box_frame", "canvas"), "test box frame"),
    "seed": (put("spec.json", "seed", 8), "contradiction"),
    "arm": (put("spec.json", "arm", "vit"), "contradiction"),
    "code": (put("environment.json", "code_version", "other"), "code version"),
    "Python": (put("environment.json", "python", "3.0.0"), "Python"),
    "platform": (put("environment.json", "platform", "other"), "operating system"),
    "torch": (put("environment.json", "packages.torch", "1.0"), "packages"),
    "Pillow": (put("environment.json", "packages.pillow", "1.0"), "packages"),
    "timm": (put("environment.json", "packages.timm", "0.0.1"), "packages"),
    "peft": (put("environment.json", "packages.peft", "0.0.1"), "packages"),
    "threads": (put("environment.json", "num_threads", 99), "threads"),
    "GPUs": (put("environment.json", "gpus", ["other"]), "GPUs"),
    "digest of questions": (put("predictions/benchmarks.json", "pope.questions_digest", "other"), "answers"),
    "a benchmark": (edited("predictions/benchmarks.json", lambda index: index.pop("pope")), "scores"),
    "prompts": (rows("refcoco", column("prompt", first("another question"))), "answers"),
    "true answers": (rows("refcoco", column("truth", first("[0.0, 0.0, 1.0, 1.0]"))), "answers"),
    "truth that is no JSON": (rows("pope", column("truth", first("yes")), scored=False), "answers"),
    "rows": (rows("refcoco", lambda table: table.slice(2)), "answers"),
    "column of prompts": (rows("pope", lambda table: table.drop_columns(["prompt"])), "answers"),
    "score column": (rows("refcoco", column("score", lambda old: [1.0 for _ in old])), "scores"),
    "score of choices": (rows("pope", column("score", lambda old: [1.0 for _ in old])), "scores"),
    "box column": (rows("refcoco", column("box", first([0.0, 0.0, 1.0, 1.0]))), "scores"),
    "average": (put("scores.json", "averages.localization.score", 99.0), "scores"),
    "score of a benchmark": (put("scores.json", "benchmarks.pope.score", 99.0), "scores"),
    "interval": (put("scores.json", "benchmarks.pope.interval", [1.0, 99.0]), "scores"),
    "gain": (put("scores.json", "averages.vqa.gain.value", 50.0), "scores"),
    "a score left out": (edited("scores.json", lambda scores: scores["benchmarks"].pop("pope")), "scores"),
    "log that ends early": (log(lambda steps: steps[:-4]), "training-log"),
    "log without a step": (log(lambda steps: steps[:9] + steps[10:]), "training-log"),
    "log of another rate": (log(lambda steps: [row | {"lr": 2 * row["lr"]} for row in steps]), "training-log"),
    "log without rates": (log(lambda steps: [{**row, "lr": None} for row in steps]), "training-log"),
    "missing log": (lambda run: (run / "train.jsonl").unlink(), "training-log"),
    "log that repeats a step": (log(lambda steps: [*steps[:5], steps[4], *steps[6:]]), "training-log"),
    "log without losses": (log(lambda steps: [{**row, "loss": None} for row in steps]), "training-log"),
    "log cut in a line": (
        lambda run: (run / "train.jsonl").write_text((run / "train.jsonl").read_text(encoding="utf-8")[:-9]),
        "training-log",
    ),
    "tap": (put("spec.json", "backbone.tap", [0, 0]), "contradiction"),
    "family": (put("spec.json", "backbone.family", "vit"), "contradiction"),
    "declared factors": (put("spec.json", "may_differ", ["backbone", "connector"]), "contradiction"),
    "tokenizer": (other_tokenizer, "tokenizer"),
    "columns of answers and truth": (rows("pope", swapped("answer", "truth"), scored=False), "answers"),
    "columns of scores and baseline": (rows("pope", swapped("score", "baseline_score")), "scores"),
    "answers of the other arm": (answers_of_the_other_arm, "copied-answers"),
    "truncated answers": (cut_short, "answers"),
    "missing answers": (lambda run: (run / "predictions" / "pope.parquet").unlink(), "answers"),
    "rows in another order": (rows("pope", lambda table: table.take(list(range(table.num_rows))[::-1])), "answers"),
    "a score that is no number": (rows("pope", column("score", first(math.nan)), scored=False), "answers"),
    "changed answer": (rows("refcoco", column("answer", first("[0.00, 0.00, 1.00, 1.00]")), scored=False), "scores"),
    "probabilities": (rows("pope", column("probabilities", all_of([0.9, 0.1])), scored=False), "scores"),
    "margins": (rows("pope", column("margin", all_of(0.5))), "scores"),
    "overlaps": (rows("refcoco", column("iou", all_of(0.99))), "scores"),
    "validity of boxes": (rows("refcoco", column("invalid", all_of(True))), "scores"),
    "baseline": (rows("pope", column("baseline_score", all_of(0.0))), "questions"),
    "subsets": (rows("pope", column("subset", all_of("random"))), "questions"),
    "question": (rows("refcoco", column("question", first("another"))), "questions"),
    "box in pixels": (rows("refcoco", column("true_box_px", first([0.0, 0.0, 1.0, 1.0]))), "questions"),
    "group of a benchmark": (put("predictions/benchmarks.json", "pope.group", "localization"), "scoring rules"),
    "threshold of boxes": (put("predictions/benchmarks.json", "refcoco.iou_threshold", 0.25), "scoring rules"),
    "name of the baseline": (put("predictions/benchmarks.json", "pope.baseline", "always no"), "scoring rules"),
    "frame that counts": (put("predictions/benchmarks.json", "refcoco.box_frame", "padded-square"), "answers"),
    "mode of scoring": (put("predictions/benchmarks.json", "pope.mode", "official"), "answers"),
    "missing index": (lambda run: (run / "predictions" / "benchmarks.json").unlink(), "questions and true answers"),
    "missing scores": (lambda run: (run / "scores.json").unlink(), "scores"),
    "score of null": (put("scores.json", "averages.vqa.score", None), "answers"),
    "errors in one arm": (rows("refcoco", unreadable), "errors"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_record_fails_the_audit_although_it_is_sealed_anew(study: Path, what: str) -> None:
    damage, expected = BROKEN[what]
    damage(second(study))
    write_seal(second(study))
    report = audited(study)
    assert expected in {fact.title for fact in report.undeclared} | {finding.key for finding in report.errors}


# The same without a new seal, where the seal itself is what is wrong.
UNSEALED: dict[str, Break] = {
    "an answer file is missing": lambda run: (run / "predictions" / "pope.parquet").unlink(),
    "the scores changed": put("scores.json", "averages.vqa.score", 50.0),
    "the seal names nothing": lambda run: (run / "seal.json").write_text("{}", encoding="utf-8"),
    "the log is missing": lambda run: (run / "train.jsonl").unlink(),
    "a file was added": rows("pope", lambda table: table),
}


# What cannot even be compared: one line says which file is wrong.
UNREADABLE: dict[str, tuple[Break, str]] = {
    "a row twice": (
        rows("pope", lambda table: pa.concat_tables([table.slice(0, 1), table.slice(0, table.num_rows - 1)]), False),
        "pope.parquet: an example_id appears twice",
    ),
    "no environment": (lambda run: (run / "environment.json").unlink(), "environment.json: no such file"),
    "a record that is a list": (lambda run: (run / "spec.json").write_text("[]"), "spec.json: expected an object"),
    "a seed in words": (put("spec.json", "seed", "seven"), "spec.json: seed: input should be a valid integer"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_record_that_cannot_be_read_ends_in_one_line(study: Path, what: str) -> None:
    damage, expected = UNREADABLE[what]
    damage(second(study))
    write_seal(second(study))
    result = CliRunner().invoke(app, ["audit", str(study)])
    assert result.exit_code != 0
    assert expected in " ".join(result.output.split())


@pytest.mark.parametrize("what", UNSEALED)
def test_a_seal_that_does_not_hold_fails_the_audit(study: Path, what: str) -> None:
    if what == "a file was added":
        shutil.copy(second(study) / "predictions" / "pope.parquet", second(study) / "predictions" / "more.parquet")
    else:
        UNSEALED[what](second(study))
    assert "changed-files" in {finding.key for finding in audited(study).errors}
    assert CliRunner().invoke(app, ["audit", str(study)]).exit_code == 1


def test_the_sound_pair_passes(study: Path) -> None:
    report = audited(study)
    assert not report.undeclared
    assert not report.errors
    assert {finding.key for finding in report.warnings if finding.severity == "warning"} == {"single-seed"}
    assert {"Python", "operating system", "packages", "image files"} <= {fact.title for fact in report.equal}
    assert CliRunner().invoke(app, ["audit", str(study)]).exit_code == 0


def test_weights_that_stayed_at_home_break_nothing(study: Path) -> None:
    shutil.rmtree(second(study) / "model")
    assert not audited(study).errors


def test_errors_that_all_runs_share_are_told_and_break_nothing(study: Path) -> None:
    for run in study.glob("*/seed-*"):
        rows("refcoco", unreadable)(run)
        write_seal(run)
    report = audited(study)
    assert not report.errors
    (note,) = [finding for finding in report.warnings if finding.key == "errors"]
    assert (note.severity, note.evidence["errors"]) == ("note", 8)


def test_runs_of_an_older_version_are_compared_in_what_they_recorded(study: Path) -> None:
    def older(environment: dict[str, Any]) -> None:
        environment["packages"] = {"torch": environment["packages"]["torch"]}

    edited("environment.json", older)(second(study))
    edited("spec.json", lambda spec: spec.pop("image_digests"))(second(study))
    write_seal(second(study))
    assert {fact.title for fact in audited(study).undeclared} <= {"image files"}


def test_an_export_refuses_what_does_not_verify(study: Path, tmp_path: Path) -> None:
    archive = tmp_path / "sound.eyeswap.zip"
    assert CliRunner().invoke(app, ["export", str(study), "--out", str(archive)]).exit_code == 0
    archive.unlink()
    for name in ("predictions/pope.parquet", "scores.json", "spec.json"):
        whole = (second(study) / name).read_bytes()
        (second(study) / name).unlink()
        result = CliRunner().invoke(app, ["export", str(study), "--out", str(archive)])
        assert result.exit_code == 2
        assert f"verification failed: files missing: {name}" in result.stderr
        assert not archive.exists()
        (second(study) / name).write_bytes(whole)


def test_no_kind_of_error_is_missing_from_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    for heading in (
        "## Answers",
        "## Scores",
        "## Training log",
        "## Questions",
        "## Copied answers",
        "## Errors",
        "## Unequal accuracy",
    ):
        assert heading in page
