"""The container's files name what exists, and run nothing as root."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LINES = [line for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def arguments(instruction: str) -> list[str]:
    return [line.partition(" ")[2].strip() for line in LINES if line.split(" ")[0] == instruction]


def test_only_known_instructions_are_used() -> None:
    assert {line.split(" ")[0] for line in LINES} == {
        *("ARG", "FROM", "RUN", "WORKDIR", "COPY", "USER", "ENTRYPOINT", "CMD"),
    }


def test_what_is_copied_exists_and_is_let_through() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for line in arguments("COPY") for source in line.split()[:-1]}
    assert copied == let_through
    assert all((ROOT / source).exists() for source in copied)


def test_the_command_is_the_package_s_and_runs_as_a_user() -> None:
    (entry,) = arguments("ENTRYPOINT")
    assert json.loads(entry)[0] in PROJECT["scripts"]
    assert [line.split(" ")[0] for line in LINES].index("USER") < len(LINES) - 1
    assert arguments("USER") == ["user"]


def test_the_base_has_a_python_that_is_supported() -> None:
    (base,) = arguments("ARG")
    version = re.fullmatch(r"BASE=python:(3\.\d+)-slim", base)
    assert version
    assert f"Programming Language :: Python :: {version[1]}" in PROJECT["classifiers"]


def test_the_devcontainer_installs_the_tests() -> None:
    about = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    (extra,) = re.findall(r"\.\[(\w+)\]", about["postCreateCommand"])
    assert extra in PROJECT["optional-dependencies"]
