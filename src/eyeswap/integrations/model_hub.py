"""Share a run's model through the Hugging Face Hub, with a model card made from the run's own records."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eyeswap.backbones import catalog
from eyeswap.backbones.name import BackboneName
from eyeswap.errors import EnvironmentProblem, EyeswapError, RunError, SpecError
from eyeswap.evaluation.ask import model_folder
from eyeswap.files import read_json, write_json, write_text
from eyeswap.results.run import Run
from eyeswap.results.scores import Score
from eyeswap.runs.privacy import without_paths
from eyeswap.runs.seal import changed_files
from eyeswap.shipped import SHIPPED_LLM
from eyeswap.versions import version_of

CARD, CONFIG = "README.md", "config.json"
FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "*.py", CARD)
_UNKNOWN = "not recorded"


def push_model(run_dir: Path, repository: str, *, private: bool = True, endpoint: str | None = None) -> str:
    """Upload a run's model, processor and tokenizer with a model card; return the address of the repository.

    Args:
        run_dir: the run's folder.
        repository: name on the Hub, ``organisation/model``; made if it does not exist.
        private: whether a new repository is private.
        endpoint: another server that speaks the Hub's protocol; the Hub, or ``HF_ENDPOINT``, by default.

    Raises:
        SpecError: if the name is not one.
        RunError: if there is no trained model, or its files are not as they were when the run ended.
        EnvironmentProblem: if the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    _check_name(repository)
    folder, run = model_folder(run_dir), Run(run_dir)
    changed = list(changed_files(run_dir)) if run.files.seal.is_file() else []
    if changed:
        raise RunError(f"{run_dir}: files changed since the run ended, so its card would not be true: {changed[0]}")
    with tempfile.TemporaryDirectory() as scratch, _one_line(repository):
        write_text(Path(scratch) / CARD, model_card(run, repository))
        config = read_json(folder / CONFIG)
        cut = without_paths(config)  # a custom encoder is recorded with the folder of its file
        if cut != config:
            write_json(Path(scratch) / CONFIG, cut)
        replaced = sorted(path.name for path in Path(scratch).iterdir())
        api = HfApi(endpoint=endpoint)
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Upload the model", ignore_patterns=replaced
        )
        api.upload_folder(repo_id=repository, folder_path=scratch, commit_message="Write the model card")
    return str(address)


def pull_model(repository: str, out: Path, *, endpoint: str | None = None) -> None:
    """Fetch a model of the Hub into a folder that `eyeswap ask`, `eval`, `serve` and transformers open.

    Args:
        repository: name on the Hub.
        out: the folder to write; it must not exist.
        endpoint: as for `push_model`.

    Raises:
        SpecError: if the name is not one, or the folder exists.
        RunError: if it is not a VLM of eyeswap's.
        EnvironmentProblem: if the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    _check_name(repository)
    if out.exists():
        raise SpecError(f"{out} exists; choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        with _one_line(repository):
            HfApi(endpoint=endpoint).snapshot_download(repository, local_dir=scratch, allow_patterns=list(FILES))
        config = Path(scratch) / CONFIG
        if not config.is_file() or read_json(config).get("model_type") != "eyeswap":
            raise RunError(f"{repository}: holds no VLM of eyeswap's (its config.json says so)")
        shutil.rmtree(Path(scratch) / ".cache", ignore_errors=True)
        shutil.copytree(scratch, out)


def model_card(run: Run, repository: str) -> str:
    """Return the model card of a run: what it is, how it was trained, what it scored, how to load it; Markdown.

    Raises:
        DataError: if a record of the run is damaged.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    record = run.record
    backbone, llm = record.backbone.name or _UNKNOWN, without_paths(record.llm.name or _UNKNOWN)
    scores: list[tuple[str, Score]] = []
    if run.files.is_scored:
        scores += [(benchmark.title, benchmark.score) for benchmark in run.scores.benchmarks.values()]
        scores += [(f"**{name}**, weighted by questions", score) for name, score in run.scores.averages.items()]
    templates = Environment(
        loader=PackageLoader("eyeswap", "integrations"), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return templates.get_template("model_card.md.j2").render(
        name=repository.rpartition("/")[2],
        repository=repository,
        version=version_of("eyeswap"),
        record=record,
        recipe={"global_batch": None, "lr": None} | (record.recipe or {}),
        backbone=without_paths(backbone),
        backbone_licence=_backbone_licence(backbone),
        llm=llm,
        llm_licence="Apache-2.0" if llm == SHIPPED_LLM else "see its model card",
        data=_data(record.recipe or {}),
        scores=scores,
        unknown=_UNKNOWN,
    )


def _data(recipe: dict[str, Any]) -> str:
    data = recipe.get("data", {})
    if data.get("name"):
        return f"Data: the embedded set `{data['name']}`, {data.get('num_train_images', '?')} images."
    return f"Data: `{Path(str(data.get('instruction', _UNKNOWN))).name}`."


def _backbone_licence(backbone: str) -> str:
    name = BackboneName.parse(backbone) if backbone != _UNKNOWN else None
    if name is not None and name.kind == "catalog":
        return catalog.entry(backbone).licence
    return "see its authors' page" if name is not None and name.kind == "timm" else "of its author"


def _check_name(repository: str) -> None:
    part = r"[A-Za-z0-9][\w.-]{0,95}"
    if re.fullmatch(f"{part}/{part}", repository, re.ASCII) is None:
        raise SpecError(f"{repository}: not the name of a repository; write organisation/model")


@contextmanager
def _one_line(repository: str) -> Iterator[None]:
    """Turn whatever the Hub's client raises into one line."""
    try:
        yield
    except (EyeswapError, KeyboardInterrupt):
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EnvironmentProblem(
            f"{repository}: the Hub refused or cannot be reached: {first} (`hf auth login` logs in)"
        ) from None
