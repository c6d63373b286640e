"""The Python interface of eyeswap for notebooks and scripts: the commands as functions.

All functions are available from the package itself (``eyeswap.run_study``); docs/python.md has an example of each. Bad
input raises an `eyeswap.errors.EyeswapError` with a one-line message.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eyeswap.evaluation.ask import Answer
    from eyeswap.planning.spec import Study
    from eyeswap.report.analysis.analysis import Analysis
    from eyeswap.results.run import Run
    from eyeswap.vlm.model import VisionLanguageModel

StrPath = str | Path


def load_study(path: StrPath) -> Study:
    """Read and validate a study file.

    Raises:
        SpecError: if anything is wrong with it; one line names the file, the field and the nearest valid choice.
    """
    from eyeswap.planning import spec

    return spec.load_study(Path(path))


def run_study(study: Study | StrPath, runs: StrPath = "runs", *, quiet: bool = False) -> Path:
    """Train and evaluate every arm of a study with every seed; finished parts are not repeated.

    Args:
        study: a study, or the path of its file.
        runs: folder of all studies' runs.
        quiet: whether to hide progress.

    Returns:
        The study's folder, for `analyse` and `load_runs`.

    Raises:
        SpecError: if a run folder holds a different model, or an arm cannot be trained as specified.
        DataError: if the data are missing or damaged.
        RunError: if runs failed, after all others are done.
    """
    from eyeswap.console import open_console
    from eyeswap.planning.spec import Study
    from eyeswap.study import execute

    file = Path(f"{study.name}.yaml") if isinstance(study, Study) else Path(study)
    loaded = study if isinstance(study, Study) else load_study(file)
    return execute.run_study(loaded, file, Path(runs), open_console(stderr=True, quiet=quiet))


def load_runs(*paths: StrPath) -> list[Run]:
    """Return runs, whose files are read when they are first used; a folder stands for all runs below it.

    Raises:
        DataError: if a path contains no run.
    """
    from eyeswap.results import run

    return run.load_runs(map(Path, paths))


def evaluate(
    run: StrPath,
    benchmarks: Sequence[str] = (),
    *,
    data: StrPath | None = None,
    subset: int | str | None = None,
    out: StrPath | None = None,
    batch: int = 128,
    quiet: bool = False,
    trust_remote_code: bool = False,
    **settings: Any,
) -> Run:
    """Evaluate a trained VLM on benchmarks; an interrupted evaluation is resumed.

    Args:
        run: folder of a run, or of a saved VLM.
        benchmarks: names, or YAML files of your own benchmarks; by default those of the run's study.
        data: data root; by default that of the run's study.
        subset: examples per benchmark part, ``"slim"`` or ``"full"``; by default that of the run's study.
        out: output folder; by default in the run's folder.
        batch: batch size; does not change any answer.
        quiet: whether to hide progress.
        trust_remote_code: whether the code of the model's custom encoder and connector may run.
        **settings: ``split``, ``mode``, ``box_frame``, ``precision`` and ``images``, see `study.evaluate.Settings`.

    Returns:
        The evaluation, with ``scores`` and ``predictions``.

    Raises:
        SpecError: if a benchmark or a setting does not exist, or the run belongs to no study and something is missing.
        RunError: if there is no trained model, or the folder holds a different evaluation.
        DataError: naming file and row.
    """
    from eyeswap.console import open_console
    from eyeswap.processes import join
    from eyeswap.progress import progress
    from eyeswap.results.run import Run
    from eyeswap.study.evaluate import evaluate_run, evaluation_settings

    names, chosen = evaluation_settings(
        Path(run), benchmarks, data=None if data is None else Path(data), subset=subset, **settings
    )
    with join() as ranks, progress(open_console(stderr=True, quiet=quiet or not ranks.is_first)) as board:
        target = None if out is None else Path(out)
        folder = evaluate_run(Path(run), names, chosen, board, target, batch, ranks, trusts_code=trust_remote_code)
        return Run(folder)


def compare(
    first: Run | StrPath, second: Run | StrPath, benchmarks: Sequence[str] = (), num_examples: int = 3
) -> dict[str, Any]:
    """Compare two runs example by example: the paired difference, second minus first, with its interval and p-value.

    Args:
        first: a run, or its folder.
        second: the run to compare with it.
        benchmarks: names of benchmarks; by default all that both runs were asked.
        num_examples: number of examples per benchmark to list on which the runs disagree.

    Returns:
        ``benchmarks`` and ``averages`` by name, and ``notes``; see `eyeswap.results.compare.compare_runs`.

    Raises:
        SpecError: if the runs share no benchmark, or not a named one.
        DataError: if a file cannot be read.
    """
    from eyeswap.results.compare import compare_runs

    return compare_runs(_folder(first), _folder(second), benchmarks, num_examples)


def analyse(study_dir: StrPath, margin: float = 1.0) -> Analysis:
    """Compute the content of a study's report as objects; ``to_records()`` returns the scores as a table.

    Args:
        study_dir: a study's folder.
        margin: largest loss in points that still counts as "no worse".

    Raises:
        DataError: naming the file that is missing or damaged.
    """
    from eyeswap.report.analysis import analysis

    return analysis.analyse(Path(study_dir), margin)


def load_vlm(run: StrPath, *, device: str | None = None, **kwargs: Any) -> VisionLanguageModel:
    """Load a trained VLM.

    Args:
        run: folder of a run, or of a saved VLM.
        device: such as ``"cpu"`` or ``"cuda:1"``; by default a GPU if there is one.
        **kwargs: arguments of transformers' ``from_pretrained``, such as ``dtype``; ``trust_remote_code`` lets the code
            of the model's custom encoder and connector run.

    Raises:
        SpecError: if there is no such device.
        RunError: if there is no trained model.
        CheckpointError: if one of its files does not fit.
    """
    from eyeswap.evaluation.ask import model_folder

    folder = model_folder(Path(run))  # told before torch and transformers are loaded
    from eyeswap.processes import find_device

    target = find_device(device or "")
    from eyeswap.vlm.model import VisionLanguageModel

    model = VisionLanguageModel.load(folder, **kwargs)
    model.to(target)
    return model


def ask(
    vlm: VisionLanguageModel | StrPath,
    image: Any,
    question: str,
    max_new_tokens: int = 64,
    *,
    choices: Sequence[str] = (),
) -> Answer:
    """Ask a VLM about one image.

    Args:
        vlm: a VLM from `load_vlm`, or the path of one that has no code of its own.
        image: a path, a URL, a PIL image or an array ``[H, W, 3]`` of uint8.
        question: the question; a text of several lines, or one that begins with "Please", is used verbatim.
        max_new_tokens: maximum length of the answer.
        choices: answers to choose from; the answer then has the probability of each.

    Raises:
        RunError: if there is no trained model.
        DataError: if the image cannot be read.
    """
    from eyeswap.evaluation.ask import ask_model

    return ask_model(_vlm(vlm), image, question, max_new_tokens, choices)


def locate(vlm: VisionLanguageModel | StrPath, image: Any, expression: str) -> Answer:
    """Ask a VLM where something is; the answer's ``box_px`` is None if its text is not a box.

    Args:
        vlm: a VLM from `load_vlm`, or the path of one that has no code of its own.
        image: as for `ask`.
        expression: what to locate, such as "the red digit".

    Raises:
        RunError: if there is no trained model.
        DataError: if the image cannot be read.
    """
    from eyeswap.evaluation.ask import ask_model
    from eyeswap.evaluation.grounding import box_request

    return ask_model(_vlm(vlm), image, box_request(expression))


def _vlm(vlm: VisionLanguageModel | StrPath) -> VisionLanguageModel:
    return load_vlm(vlm) if isinstance(vlm, str | Path) else vlm


def _folder(run: Run | StrPath) -> Path:
    return Path(run) if isinstance(run, str | Path) else run.folder
