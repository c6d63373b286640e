"""The `eyeswap` command: gathers the subcommands and turns errors into one line and an exit code.

Command files import nothing heavy at the top, so that help appears at once; the library is imported inside
the functions. Exit codes: 0 done, 1 a run failed or an audit found undeclared differences, 2 a mistake in
what was asked for, 70 a bug, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from eyeswap.cli import (
    audit,
    backbones,
    collapse,
    compare,
    data,
    doctor,
    eval,
    models,
    profile,
    report,
    study,
    tokens,
    train,
)
from eyeswap.errors import EyeswapError

ORDER = (
    "study",
    "train",
    "report",
    "audit",
    "collapse",
    "eval",
    "score",
    "compare",
    "published",
    "ask",
    "backbones",
    "check",
    "models",
    "data",
    "tokens",
    "pretrain",
    "profile",
    "export",
    "import",
    "doctor",
)


BUG = 70  # EX_SOFTWARE of sysexits.h
_TYPERS_OWN: tuple[type[BaseException], ...] = (
    typer.Exit,
    typer.Abort,
    typer.BadParameter.__mro__[2],
)  # the last is the base of all usage errors


class _Commands(TyperGroup):
    """A command group that reports errors as one line; the library itself never prints or exits."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands in the order in which a newcomer needs them."""
        return list(ORDER)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("\ninterrupted; run the same command again to go on", err=True)
            raise typer.Exit(130) from None
        except _TYPERS_OWN:
            raise
        except Exception as error:
            if ctx.params.get("debug") or getattr(error, "errno", None) == errno.EPIPE:  # typer knows about pipes
                raise
            line, exit_code = describe_error(error)
            from eyeswap.console import visible

            typer.echo(f"error: {visible(line)}", err=True)
            raise typer.Exit(exit_code) from None


def describe_error(error: Exception) -> tuple[str, int]:
    """Return one line about an error, and the exit code.

    What a path or file of the user's can cause anywhere (it is missing, a folder, not text, nested too deeply, too
    large for this machine) is the user's to mend; whatever else escapes is a mistake of eyeswap's.
    """
    text = " ".join(str(error).split())
    match error:
        case EyeswapError():
            return text, error.exit_code
        case OSError(filename=str() | bytes() | os.PathLike() as name, strerror=str() as reason):
            return f"{os.fsdecode(name)}: {reason}", 2
        case OSError():
            return text or type(error).__name__, 2
        case UnicodeError():
            return f"text that is not valid Unicode: {text}", 2
        case RecursionError():
            return "nested too deeply to be read", 2
        case MemoryError():
            return f"out of memory{f': {text}' if text else ''}", 2
        case _:
            return f"{type(error).__name__}: {text}; this is a bug, run again with --debug and report it", BUG


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"eyeswap {version('eyeswap')}")
        raise typer.Exit


app = typer.Typer(
    cls=_Commands,
    name="eyeswap",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: eyeswap study run studies/quickstart.yaml",
)


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Swap the vision backbone of a VLM, keep everything else fixed, and measure what it did."""


app.add_typer(study.app, name="study")
app.command("train", epilog=train.EXAMPLE)(train.train)
app.command("audit", epilog="Example: eyeswap audit runs/quickstart")(audit.audit)
app.command("collapse", epilog=collapse.EXAMPLE)(collapse.collapse)
app.command("report", epilog="Example: eyeswap report runs/quickstart")(report.report)
app.command("eval", epilog=eval.EXAMPLE)(eval.evaluate)
app.command("score", epilog=eval.SCORE_EXAMPLE)(eval.score)
app.command("compare", epilog=compare.EXAMPLE)(compare.compare)
app.command("published", epilog=report.PUBLISHED_EXAMPLE)(report.published)
app.command("ask", epilog=eval.ASK_EXAMPLE)(eval.ask)
app.command("pretrain", epilog="Example: eyeswap pretrain digits-vmamba --out checkpoints")(train.pretrain)
app.add_typer(backbones.app, name="backbones")
app.command("check", epilog=backbones.CHECK_EXAMPLE)(backbones.check)
app.add_typer(models.app, name="models")
app.add_typer(data.app, name="data")
app.add_typer(tokens.app, name="tokens")
app.command("profile", epilog=profile.EXAMPLE)(profile.profile)
app.command("export", epilog=report.EXPORT_EXAMPLE)(report.export)
app.command("import", epilog=report.IMPORT_EXAMPLE)(report.import_)
app.command("doctor", epilog="Example: eyeswap doctor")(doctor.doctor)


def main() -> None:
    """Run the command line."""
    app()
