"""Train one VLM outside of a study, from a recipe, a backbone and a seed, in the same way as a study's run.

It is written where a study's run would be, to ``runs/<recipe>/<arm>/seed-<n>``, so that `eyeswap eval`, `compare` and
`audit` treat it as one, and backbones trained by the same recipe are found side by side.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console

from eyeswap.console import open_console
from eyeswap.errors import SpecError
from eyeswap.planning.plan import plan_runs, refuse, refuse_changed
from eyeswap.planning.spec import Study, apply_change, checked, kebab, split_change
from eyeswap.processes import join
from eyeswap.progress import progress
from eyeswap.runs.folder import StudyFolder
from eyeswap.runs.log import run_log
from eyeswap.study.backbones import Backbones, check_arms
from eyeswap.study.launch import alone_in
from eyeswap.study.study_data import cached_tokens, prepare_data
from eyeswap.study.train_run import train_run
from eyeswap.tokens.cache import token_folder
from eyeswap.yaml_reader import read_yaml


class OneArm(Study):
    """A study of one arm without benchmarks."""

    benchmarks: tuple[str, ...] = Field((), description="none; `eyeswap eval` asks them afterwards")


def one_arm(recipe_file: Path, arm: Mapping[str, str], seed: int, changes: Sequence[str] = ()) -> OneArm:
    """Build the study of one arm that `train_one` trains.

    Args:
        recipe_file: a YAML file with the ``recipe`` section of a study.
        arm: ``backbone``, and any other keys of an arm.
        seed: seed of the run.
        changes: ``key=value`` changes of the recipe, such as ``lr=1e-5`` or ``data.folder=data``; also
            ``execution.<key>=...`` and ``beyond_positions=allow``.

    Raises:
        SpecError: if anything is wrong, in one line.
    """
    content = read_yaml(recipe_file)
    if not isinstance(content, dict):
        raise SpecError(f"{recipe_file}: expected the keys of a recipe, such as data and llm")
    if "recipe" in content or "arms" in content:
        raise SpecError(f"{recipe_file}: this is a study; run it with `eyeswap study run {recipe_file}`")
    value: dict[str, Any] = {"recipe": content, "execution": {}}
    for change in changes:
        keys, new_value = split_change(change)
        is_outside_recipe = keys[0] in ("execution", "beyond_positions")
        apply_change(value, keys if is_outside_recipe else ["recipe", *keys], new_value)
    overrides = [key for key in arm if key not in ("backbone", "weights")]
    return checked(
        OneArm,
        {
            "name": recipe_file.stem,
            "question": f"What does {arm['backbone']} make of {recipe_file.name}?",
            "arms": {"-".join(kebab(part) for part in arm.values()): dict(arm)},
            "may_differ": ["backbone", *overrides],
            "seeds": [seed],
            **value,
        },
        recipe_file,
        Path(),
    )


def train_one(study: OneArm, recipe_file: Path, runs_dir: Path, console: Console) -> Path:
    """Train the only run of a study of one arm unless it is trained, resuming from its last checkpoint if there is one.

    Args:
        study: the study.
        recipe_file: the recipe file, for messages.
        runs_dir: folder of all runs.
        console: where progress is shown.

    Returns:
        The run's folder, with the trained VLM in ``model/``.

    Raises:
        SpecError, DataError, RunError, ...: as in `eyeswap.study.execute.run_study`.
    """
    study_dir = runs_dir / study.name
    (run,) = plan_runs(study, runs_dir)
    refuse_changed([run], recipe_file)
    if run.files.is_trained:
        return run.folder
    check_arms(study, study.arms, for_training=True)
    with join() as ranks, progress(console if ranks.is_first else open_console(quiet=True)) as board:
        with ranks.first_alone(), alone_in(StudyFolder(study_dir).data, console) if ranks.is_first else nullcontext():
            data = prepare_data(study, study_dir, board)
        loaded = Backbones(study)[run.arm]
        refuse(run, run.changes(run.model.with_backbone(loaded.weights_sha256)), str(recipe_file))
        with (
            alone_in(run.folder, console) if ranks.is_first else nullcontext(),
            run_log(run.files.log, run.arm, writes=ranks.is_first),
        ):
            cache = cached_tokens(run, data, loaded, token_folder(StudyFolder(study_dir).tokens), board, ranks)
            if not run.files.is_trained:
                train_run(run, data, loaded, cache, board, ranks)
        if ranks.is_first:
            shutil.rmtree(run.files.checkpoints, ignore_errors=True)
    return run.folder
