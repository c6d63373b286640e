"""The `eyeswap` command: collects the subcommands and turns errors into one line and an exit code.

Command files import nothing heavy at the top, so that help appears at once; the library is imported inside the
functions. Exit codes: 0 success, 1 a run failed or a check found something wrong, 2 bad input, 70 a bug, 130
interrupted, 143 ended by SIGTERM.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from eyeswap.cli import (
    ask,
    backbones,
    collapse,
    compare,
    data,
    doctor,
    eval,
    models,
    probe,
    profile,
    report,
    study,
    tokens,
    train,
)
from eyeswap.errors import EyeswapError
from eyeswap.processes import Terminated, termination

BUG = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED, TERMINATED = 130, 143  # as shells report SIGINT and SIGTERM
_UsageError: Any = typer.BadParameter.__base__  # typer has no public name for it
_STUDIES, _MODELS, _PARTS = "Studies", "Single models", "Encoders, checkpoints, data and this machine"
_ORDER = (
    *("study", "report", "audit", "collapse", "compare", "published", "export", "import"),
    *("train", "eval", "score", "ask", "serve", "probe", "predictors"),
    *("backbones", "check", "models", "data", "tokens", "pretrain", "profile", "doctor"),
)
_RESUMABLE = {"study", "train", "eval", "predictors", "pretrain", "adapt", "tokens", "backbones", "data"}


class _Commands(TyperGroup):
    """A command group that reports errors as one line; the library itself never prints or exits."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands in the order in which a newcomer needs them."""
        return list(_ORDER)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        termination.listen()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            is_termination = isinstance(stop, Terminated)
            reason = "ended by SIGTERM" if is_termination else "interrupted"
            remedy = "; run the same command again to resume" if ctx.invoked_subcommand in _RESUMABLE else ""
            typer.echo(f"\n{reason}{remedy}", err=True)
            raise typer.Exit(TERMINATED if is_termination else INTERRUPTED) from None
        except (typer.Exit, typer.Abort):
            raise
        except _UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                raise
            where = (getattr(error, "ctx", None) or ctx).command_path
            message = _one_line(error.format_message()).replace("Value error, ", "").rstrip(".")
            typer.echo(f"error: {message}; see `{where} --help`", err=True)
            raise typer.Exit(2) from None
        except Exception as error:
            if ctx.params.get("debug") or getattr(error, "errno", None) == errno.EPIPE:  # typer handles closed pipes
                raise
            line, exit_code = describe_error(error)
            from eyeswap.console import visible

            typer.echo(f"error: {visible(line)}", err=True)
            raise typer.Exit(exit_code) from None


# What gloo and NCCL say in the other processes when one has ended.
_PEER_LOST = re.compile("closed by peer|reset by peer|Broken pipe|connectFullMesh failed|remote process exited")


def describe_error(error: Exception) -> tuple[str, int]:
    """Return one line about an error, and the exit code.

    What a user's path or file can cause anywhere (it is missing, a folder, not text, nested too deeply, too large for
    this machine) is for the user to fix; any other exception that gets here is a bug in eyeswap.
    """
    text = _one_line(str(error))
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
            return "the input is nested too deeply to be read", 2
        case RuntimeError() if text.startswith("Symlink loop"):  # pathlib's, before Python 3.13
            return text, 2
        case RuntimeError() if "RANK" in os.environ and _PEER_LOST.search(text):
            return "another process of this group ended; its own message says why. The same command resumes", 1
        case MemoryError():
            return f"out of memory{f': {text}' if text else ''}", 2
        case _:
            return f"{type(error).__name__}: {text}; this is a bug; run again with --debug and report it", BUG


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"eyeswap {version('eyeswap')}")
        raise typer.Exit


app = typer.Typer(
    cls=_Commands,
    name="eyeswap",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: eyeswap study run studies/quickstart.yaml",
)


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also print the lines of run.log.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress, only results and errors.")] = False,
) -> None:
    """Swap the vision backbone of a VLM, keep everything else fixed, and measure what it did."""
    from eyeswap.console import be_quiet

    be_quiet(quiet)
    if verbose:
        _log_to_terminal()


def _log_to_terminal() -> None:
    import logging

    from eyeswap.runs.log import LOGGER, log_format

    handler = logging.StreamHandler()
    handler.setFormatter(log_format())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)


app.add_typer(study.app, name="study", rich_help_panel=_STUDIES)
app.command("report", rich_help_panel=_STUDIES, epilog=report.REPORT_EXAMPLE)(report.report)
app.command("audit", rich_help_panel=_STUDIES, epilog=report.AUDIT_EXAMPLE)(report.audit)
app.command("collapse", rich_help_panel=_STUDIES, epilog=collapse.EXAMPLE)(collapse.collapse)
app.command("compare", rich_help_panel=_STUDIES, epilog=compare.EXAMPLE)(compare.compare)
app.command("published", rich_help_panel=_STUDIES, epilog=report.PUBLISHED_EXAMPLE)(report.published)
app.command("export", rich_help_panel=_STUDIES, epilog=report.EXPORT_EXAMPLE)(report.export)
app.command("import", rich_help_panel=_STUDIES, epilog=report.IMPORT_EXAMPLE)(report.import_)
app.command("train", rich_help_panel=_MODELS, epilog=train.EXAMPLE)(train.train)
app.command("eval", rich_help_panel=_MODELS, epilog=eval.EXAMPLE)(eval.evaluate)
app.command("score", rich_help_panel=_MODELS, epilog=eval.SCORE_EXAMPLE)(eval.score)
app.command("ask", rich_help_panel=_MODELS, epilog=ask.EXAMPLE)(ask.ask)
app.command("serve", rich_help_panel=_MODELS, epilog=ask.SERVE_EXAMPLE)(ask.serve)
app.command("probe", rich_help_panel=_MODELS, epilog=probe.EXAMPLE)(probe.probe)
app.command("predictors", rich_help_panel=_MODELS, epilog=probe.PREDICTORS_EXAMPLE)(probe.predictors)
app.add_typer(backbones.app, name="backbones", rich_help_panel=_PARTS)
app.command("check", rich_help_panel=_PARTS, epilog=backbones.CHECK_EXAMPLE)(backbones.check)
app.add_typer(models.app, name="models", rich_help_panel=_PARTS)
app.add_typer(data.app, name="data", rich_help_panel=_PARTS)
app.add_typer(tokens.app, name="tokens", rich_help_panel=_PARTS)
app.command("pretrain", rich_help_panel=_PARTS, epilog=train.PRETRAIN_EXAMPLE)(train.pretrain)
app.command("adapt", rich_help_panel=_PARTS, epilog=train.ADAPT_EXAMPLE)(train.adapt)
app.command("profile", rich_help_panel=_PARTS, epilog=profile.EXAMPLE)(profile.profile)
app.command("doctor", rich_help_panel=_PARTS, epilog="Example: eyeswap doctor")(doctor.doctor)


def main() -> None:
    """Run the command line."""
    app()
