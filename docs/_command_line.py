"""Write the page of all commands and options when the site is built, from the commands themselves."""

from __future__ import annotations

from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from eyeswap.cli.main import app


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add ``command-line.md`` to the pages."""
    lines = ["# Command line", ""]
    for name, command in _commands(typer.main.get_command(app), "eyeswap"):
        lines += [f"## {name}", "", command.help or "", ""]
        if command.epilog:
            lines += [f"    {command.epilog.removeprefix('Example: ')}", ""]
        rows = [_row(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
        if rows:
            lines += ["| argument or option | default | meaning |", "|---|---|---|", *rows, ""]
    files.append(File.generated(config, "command-line.md", content="\n".join(lines)))
    return files


def _commands(command: Any, name: str) -> list[tuple[str, Any]]:
    """Return a command and those below it, with their whole names."""
    below = getattr(command, "commands", {})
    return [(name, command)] + [
        pair for key, inner in below.items() if not inner.hidden for pair in _commands(inner, f"{name} {key}")
    ]


def _row(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    name = parameter.metavar or parameter.name.upper() if is_argument else ", ".join(parameter.opts)
    default = "needed" if parameter.required else parameter.default
    is_shown = default not in (None, "", False) and not callable(default)
    meaning = " ".join((parameter.help or "").split()).replace("|", "\\|")
    return f"| `{name}` | {f'`{default}`' if is_shown else ''} | {meaning} |"
