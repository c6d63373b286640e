"""The command line turns every mistake into one line and an exit code, and starts fast."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from eyeswap.cli.main import app
from eyeswap.errors import RunError

GOOD = """\
question: Which one sees better?
recipe: {data: digits, llm: digits-llm}
arms: {vit: digits-vit, vmamba: digits-vmamba}
benchmarks: [pope]
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})


def test_help_names_every_command_in_the_order_a_newcomer_needs() -> None:
    text = invoke("--help").stdout
    places = [text.index(f"│ {name}") for name in ("study", "report", "audit", "ask", "backbones", "data", "doctor")]
    assert places == sorted(places)


def test_no_command_at_all_shows_the_help() -> None:
    result = invoke()
    assert result.exit_code == 2
    assert "Usage: eyeswap" in result.output


def test_a_mistake_in_a_study_is_one_line_and_exit_code_2(study: Path) -> None:
    study.write_text(GOOD.replace("pope", "pop"), encoding="utf-8")
    result = invoke("study", "plan", study)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f'error: {study}: benchmarks: unknown benchmark "pop". Did you mean pope?')
    assert result.stderr.count("\n") == 1


def test_debug_shows_the_traceback(study: Path) -> None:
    study.unlink()
    result = invoke("--debug", "study", "plan", study)
    assert type(result.exception).__name__ == "SpecError"


def test_a_failed_run_exits_with_1(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Path:
        raise RunError("vit/seed-7: the loss is not finite at step 3; see train.jsonl")

    monkeypatch.setattr("eyeswap.study.execute.run_study", fail)
    result = invoke("study", "run", study, "--workers", "1")
    assert result.exit_code == 1
    assert result.stderr == "error: vit/seed-7: the loss is not finite at step 3; see train.jsonl\n"


def test_an_interrupt_says_how_to_go_on(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("eyeswap.study.execute.run_study", interrupt)
    result = invoke("study", "run", study, "--workers", "1")
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted; run the same command again to resume"


def test_a_plan_lists_the_runs_and_starts_nothing(study: Path, tmp_path: Path) -> None:
    result = invoke("study", "plan", study, "--runs", tmp_path / "runs")
    assert result.exit_code == 0
    assert all(f" {arm} " in result.stdout for arm in ("vit", "vmamba"))
    assert result.stdout.count("new") == 3  # each run, and their sum
    assert not (tmp_path / "runs").exists()


def test_audit_exits_with_1_on_an_undeclared_difference(tmp_path: Path) -> None:
    for arm, order in (("vit", "a"), ("vmamba", "b")):
        run = tmp_path / arm / "seed-7"
        run.mkdir(parents=True)
        spec = {
            "arm": arm,
            "seed": 7,
            "recipe_digest": "r",
            "order_digest": order,
            "may_differ": ["backbone"],
        }
        spec |= {"backbone": {"name": arm}, "llm": {}, "connector": {}}
        (run / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        (run / "environment.json").write_text("{}", encoding="utf-8")
    result = invoke("audit", tmp_path)
    assert result.exit_code == 1
    assert "1 undeclared" in result.stdout
    assert "a: vit/seed-7" in result.stdout
    findings = json.loads(invoke("audit", tmp_path, "--json").stdout)
    assert [fact["title"] for fact in findings["undeclared"]] == ["batch order"]


def test_an_unknown_data_set_is_named_with_the_known_ones(tmp_path: Path) -> None:
    result = invoke("data", "make", "digit", "--out", tmp_path / "data")
    assert result.exit_code == 2
    allowed = "digits, digits-coco, digits-ade20k"
    assert result.stderr == f'error: unknown data set "digit". Did you mean digits? Allowed: {allowed}.\n'


def test_an_unknown_backbone_is_named_with_the_nearest() -> None:
    result = invoke("backbones", "show", "digits-vmanba")
    assert result.exit_code == 2
    assert "did you mean digits-vmamba?" in result.stderr


def test_help_imports_nothing_heavy() -> None:
    heavy = (
        *("torch", "transformers", "numpy", "scipy", "sklearn", "pyarrow", "matplotlib", "PIL", "numba"),
        *("pydantic", "yaml", "jinja2", "filelock", "huggingface_hub"),
    )
    code = (
        "import sys\nfrom eyeswap.cli.main import main\nsys.argv = ['eyeswap', '--help']\n"
        f"try:\n    main()\nfinally:\n    print('imported:', *set({heavy!r}) & set(sys.modules), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Swap the vision backbone" in result.stdout
    assert result.stderr == "imported:\n"


def test_the_embedded_data_set_is_written_and_named_by_its_digest(tmp_path: Path) -> None:
    size = ("--train", "4", "--val", "2", "--turns", "2")
    first, second = (invoke("data", "make", "digits", "--out", tmp_path / name, *size) for name in "ab")
    assert first.exit_code == 0, first.output
    assert (tmp_path / "a" / "download" / "vqa-v2").is_dir()
    assert first.stdout.partition("digest")[2] == second.stdout.partition("digest")[2] != ""


def test_a_count_of_zero_images_is_refused(tmp_path: Path) -> None:
    assert invoke("data", "make", "digits", "--out", tmp_path / "data", "--train", "0").exit_code == 2


def test_a_report_of_no_study_is_one_line(tmp_path: Path) -> None:
    result = invoke("report", tmp_path)
    assert result.exit_code == 2
    assert result.stderr == f"error: {tmp_path / 'study.json'}: no such file\n"


def test_a_real_interrupt_leaves_one_line_and_nothing_half_written(tmp_path: Path) -> None:
    out = tmp_path / "data"
    command = [
        sys.executable,
        "-m",
        "eyeswap.cli",
        "data",
        "make",
        "digits",
        "--out",
        str(out),
        "--train",
        "50000",
    ]

    def listen() -> None:  # a job in the background of a script ignores this signal, and so would its children
        signal.signal(signal.SIGINT, signal.default_int_handler)

    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    deadline = time.monotonic() + 60
    while process.poll() is None and not out.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert complaint.strip().endswith("interrupted; run the same command again to resume")
    assert "Traceback" not in complaint
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("error", "line", "exit_code"),
    [
        (NotADirectoryError(20, "Not a directory", "runs/x"), "runs/x: Not a directory", 2),
        (OSError(36, "File name too long", b"runs/x"), "runs/x: File name too long", 2),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "text that is not valid Unicode", 2),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply", 2),
        (MemoryError(), "out of memory", 2),
        (KeyError("arm"), "KeyError: 'arm'; this is a bug; run again with --debug", 70),
    ],
)
def test_an_error_of_any_kind_is_one_line(
    study: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str, exit_code: int
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("eyeswap.planning.spec.load_study", fail)
    result = invoke("study", "plan", study)
    assert result.exit_code == exit_code
    assert result.output.startswith("error: ")
    assert line in result.output
    assert result.output.count("\n") == 1
    debugged = CliRunner().invoke(app, ["--debug", "study", "plan", str(study)])
    assert debugged.exception is error


def test_the_end_of_another_process_is_no_bug(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:17610. This is typically caused by")

    monkeypatch.setattr("eyeswap.planning.spec.load_study", fail)
    assert invoke("study", "plan", study).exit_code == 70
    monkeypatch.setenv("RANK", "1")
    result = invoke("study", "plan", study)
    assert (result.exit_code, "another process of this group ended" in result.output) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["no-such-command"], "No such command 'no-such-command'; see `eyeswap --help`"),
        (["study", "plan"], "Missing argument 'FILE'; see `eyeswap study plan --help`"),
        (["study", "plan", "x", "--gpus", "many"], "Invalid value for '--gpus': "),
        (["study", "plan", "x", "--runs", __file__], "Invalid value for '--runs': "),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments: list[str], line: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.output.startswith(f"error: {line}")
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("arguments", [("export",), ("audit",), ("report",), ("import",), ("study", "plan")])
def test_a_link_to_itself_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    result = invoke(*arguments, tmp_path / "loop")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
