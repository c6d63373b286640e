"""What the documents promise exists: commands, options, make targets, links, studies."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from eyeswap.backbones import catalog
from eyeswap.cli.main import app
from eyeswap.evaluation import BENCHMARKS
from eyeswap.planning.spec import load_study
from shipped_studies import load_shipped

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
STUDIES = sorted((ROOT / "studies").rglob("*.y*ml"))
COMMAND = typer.main.get_command(app)
# What a fresh machine already has; everything else that a document tells people to type must be ours.
SYSTEM_COMMANDS = {"git", "cd", "pip", "python3", "source", "torchrun", "apt-get", "docker"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def shell_lines(page: Path) -> Iterator[str]:
    """Yield the command lines of a page, from fenced sh, bash and console blocks and from indented blocks."""
    language: str | None = None
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            language = None if language is not None else line.strip().removeprefix("```").strip()
        elif language in ("sh", "bash"):
            yield line
        elif (language == "console" and line.startswith("$ ")) or (language is None and line.startswith("    ")):
            command = line.strip().removeprefix("$ ")
            if command.split(" ")[0] in ("eyeswap", "make"):
                yield command


def promised() -> list[tuple[Path, list[str]]]:
    found = []
    for page in PAGES:
        text = "\n".join(shell_lines(page)).replace("\\\n", " ")
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if words:
                found.append((page, words))
    return found


def help_examples(command: Any) -> Iterator[list[str]]:
    if command.epilog:
        yield shlex.split(command.epilog.removeprefix("Example:"))
    for inner in getattr(command, "commands", {}).values():
        yield from help_examples(inner)


def check_eyeswap(words: list[str]) -> None:
    """Follow the words down the command tree; what is left must be options that the last command has."""
    command: Any = COMMAND
    rest = words[1:]
    known = {name for parameter in command.params for name in parameter.opts}
    while rest and hasattr(command, "commands"):
        if rest[0].startswith("-"):
            assert rest.pop(0) in known | {"--help", "-h"}, words
            continue
        assert rest[0] in command.commands, f"no such command: {' '.join(words)}"
        command = command.commands[rest.pop(0)]
        known = {name for parameter in command.params for name in parameter.opts}
    unknown = [word for word in rest if word.startswith("-") and word.split("=")[0] not in known | {"--help", "-h"}]
    assert not unknown, f"unknown options {unknown} in: {' '.join(words)}"
    needed = [
        parameter for parameter in command.params if parameter.param_type_name == "argument" and parameter.required
    ]
    assert len([word for word in rest if not word.startswith("-")]) >= len(needed), f"arguments missing: {words}"


@pytest.mark.parametrize(
    ("page", "words"),
    promised(),
    ids=lambda value: value.name if isinstance(value, Path) else " ".join(value),
)
def test_a_command_in_the_documents_exists(page: Path, words: list[str]) -> None:
    while "=" in words[0]:  # variables for the command
        words = words[1:]
    program = words[0].rpartition("/")[2]
    if program == "eyeswap":
        check_eyeswap(words)
        for word in words:
            if word.startswith(("studies/", "recipes/")):
                assert (ROOT / word).is_file(), f"{relative(page)} names {word}"
    elif program == "make":
        targets = [word for word in words[1:] if "=" not in word]
        subprocess.run(["make", "-n", *targets], cwd=ROOT, check=True, capture_output=True)
    else:
        assert program in SYSTEM_COMMANDS, f"{relative(page)}: nobody knows {program}"


def test_the_two_commands_of_the_readme_are_promised() -> None:
    readme = [words for page, words in promised() if page.name == "README.md"]
    assert ["make", "study"] in readme
    assert ["make", "test"] in readme


def test_the_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "set -eu" in script
    assert script.rstrip().endswith("make test")


@pytest.mark.parametrize("words", list(help_examples(COMMAND)), ids=" ".join)
def test_an_example_in_the_help_exists(words: list[str]) -> None:
    check_eyeswap(words)


def test_every_command_has_an_example_in_its_help() -> None:
    def bare(command: Any, name: str) -> Iterator[str]:
        inner = getattr(command, "commands", {})
        if not inner and not (command.epilog or "").startswith("Example: eyeswap "):
            yield name
        for key, child in inner.items():
            yield from bare(child, f"{name} {key}")

    assert not list(bare(COMMAND, "eyeswap"))


@pytest.mark.parametrize(
    "arguments", [["--version"], ["backbones", "list"], ["study", "plan", "studies/quickstart.yaml"]]
)
def test_quick_commands_run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.strip()


@pytest.mark.parametrize("path", STUDIES, ids=relative)
def test_every_shipped_study_loads_and_says_what_it_asks(path: Path, tmp_path: Path) -> None:
    assert load_shipped(path, tmp_path).question
    header = path.read_text(encoding="utf-8").split("\n\n")[0]
    for word in ("Question", "Command", "Time", "Expect"):
        assert re.search(rf"^# {word}\b", header, re.MULTILINE), f"{relative(path)}: header names no {word}"


def block(language: str) -> str:
    """Return the first fenced block of a language in the README."""
    found = re.search(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found.group(1)


def test_the_study_shown_in_the_readme_loads(tmp_path: Path) -> None:
    path = tmp_path / "shown.yaml"
    path.write_text(block("yaml"), encoding="utf-8")
    assert load_study(path).seeds == (7, 8, 9)


def test_the_encoder_shown_in_the_readme_keeps_the_contract(tmp_path: Path) -> None:
    import torch

    from eyeswap.backbones.weights import load_backbone

    (tmp_path / "my_encoder.py").write_text(block("python"), encoding="utf-8")
    loaded = load_backbone(f"{tmp_path / 'my_encoder.py'}:build")
    assert loaded.token_grid == (8, 8)
    tokens = loaded.network(torch.rand(2, 3, 64, 64))
    assert tokens.shape == (2, 64, loaded.network.embed_dim)
    assert not tokens.requires_grad


def test_the_tables_in_the_readme_are_those_of_the_code() -> None:
    rows = []
    families: dict[str, list[catalog.BackboneEntry]] = {}
    for entry in catalog.entries().values():
        families.setdefault(entry.family, []).append(entry)
    for family, entries in families.items():
        objectives = ", ".join(sorted({entry.objective for entry in entries}))
        rows.append(f"| {family} | {len(entries)} | {objectives} |")
    for one in BENCHMARKS.values():
        rows.append(f"| `{one.name}` | {one.title} | {one.group} | {one.metric} | {one.num_published:,} |")
    shown = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [row for row in rows if row not in shown] == []


def test_the_reference_of_the_study_file_is_what_the_code_says() -> None:
    page = (ROOT / "docs" / "study-file.md").read_text(encoding="utf-8")
    printed = CliRunner().invoke(app, ["study", "fields"]).stdout
    assert printed.strip()
    assert page.endswith(printed), "write the output of `eyeswap study fields` into docs/study-file.md"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_resolve(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue  # the web is not ours to test
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), f"{relative(page)}: {target} leads nowhere"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{relative(page)}: {target}: no such heading"


def test_make_help_lists_the_two_commands() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shown = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "make study" in shown
    assert "make test" in shown
