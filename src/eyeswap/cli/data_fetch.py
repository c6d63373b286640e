"""What `eyeswap data fetch` says and asks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from eyeswap.errors import SpecError

if TYPE_CHECKING:
    from eyeswap.data.catalogue import DataSet
    from eyeswap.data.fetch import FetchPlan


def fetch_sets(sets: Sequence[DataSet], root: Path, yes: bool) -> list[str]:
    """Plan, ask, download; return what went wrong, one line each.

    Raises:
        SpecError: if nobody can be asked.
        EnvironmentProblem: if the disk has no room.
    """
    from eyeswap.data.fetch import check_room, fetch, plan_fetch

    for one in sets:
        typer.echo(f"{one.title} ({one.name}): {one.about}; licence: {one.licence}")
    plan = plan_fetch(sets, root)
    for line in _planned(plan):
        typer.echo(line)
    check_room(plan, root)
    reachable = [url for url in plan.downloads if url not in plan.unreachable]
    if reachable and not yes:
        if not sys.stdin.isatty():
            raise SpecError("nothing was downloaded; pass --yes to start")
        typer.confirm("Start?", abort=True)
    problems = fetch(plan, root)
    for problem in problems:
        typer.echo(f"failed: {problem}", err=True)
    if problems:
        typer.echo("run the same command again to go on with what failed", err=True)
    if reachable or plan.links:
        for one in sets:
            typer.echo(f"look at what is there now: eyeswap data check {one.name} --root {root}")
    return problems


def _planned(plan: FetchPlan) -> list[str]:
    lines = [f"here      {found.path}" for found in plan.here]
    lines += [f"link      {found.path} -> {target}" for found, target in plan.links]
    for url, wanted in plan.downloads.items():
        size = (plan.unreachable.get(url) and "no answer") or _size(plan.num_bytes.get(url))
        lines += [f"download  {found.path} <- {url} ({size})" for found in wanted]
    for found in plan.by_hand:
        lines.append(f"by hand   {found.path} <- {found.source.url}")
        lines.append(f"          {found.source.manual}")
    unknown = len(plan.downloads) - len(plan.num_bytes) - len(plan.unreachable)
    total = f"{_size(plan.total_bytes)} to download" + (f", and {unknown} of unknown size" if unknown else "")
    return [*lines, total if plan.downloads else "nothing to download"]


def _size(num_bytes: int | None) -> str:
    if num_bytes is None:
        return "size unknown"
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"
