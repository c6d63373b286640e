"""``spec.json``: everything that decided a run, for the audit and for readers."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from pathlib import Path

from eyeswap.audit.observed import observed
from eyeswap.backbones.state import state_digest
from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.files import digest, sha256_of, write_json
from eyeswap.planning.plan import PlannedRun
from eyeswap.runs.environment import environment
from eyeswap.runs.folder import RunFolder
from eyeswap.runs.record import BackboneRecord, ConnectorRecord, LanguageModelRecord, RunRecord, write_record
from eyeswap.shipped import llm_source
from eyeswap.study.study_data import StudyData
from eyeswap.training.batches import TrainingData
from eyeswap.training.order import order_digest
from eyeswap.vlm.hub import local_folder
from eyeswap.vlm.llm import num_positions
from eyeswap.vlm.model import VisionLanguageModel

_BOX_MARK = "region this sentence describes:"


def write_records(
    run: PlannedRun, data: StudyData, loaded: LoadedBackbone, model: VisionLanguageModel, trained_on: TrainingData
) -> None:
    """Write ``spec.json``, ``environment.json`` and, if records are left out, which and why (``left-out.json``)."""
    files = RunFolder(run.folder)
    if data.left_out:
        write_json(files.left_out, [asdict(one) for one in data.left_out])
    write_record(files.environment, environment())
    write_record(files.record, _record(run, data, loaded, model, trained_on))


def _record(
    run: PlannedRun, data: StudyData, loaded: LoadedBackbone, model: VisionLanguageModel, trained_on: TrainingData
) -> RunRecord:
    recipe = run.study.recipe
    trained, tested = _box_requests(data)
    return RunRecord(
        study=run.study.name,
        arm=run.arm,
        seed=run.seed,
        run_digest=run.digest,
        recipe=recipe.model_dump(mode="json"),
        recipe_digest=recipe.digest,
        data_digest=data.digest,
        order_digest=order_digest(trained_on.order, trained_on.ids),
        num_steps=len(trained_on.order),
        left_out={"records": len(data.left_out), "images": len({one.image for one in data.left_out})},
        train_prompt=model.prompt.question(trained),
        test_prompt=model.prompt.question(tested),
        train_box_frame=recipe.trained_box_frame,
        test_box_frame=recipe.test_box_frame,
        benchmarks=run.study.benchmarks,
        may_differ=run.study.may_differ,
        llm=LanguageModelRecord(name=recipe.llm, sha256=folder_digest(local_folder(llm_source(recipe.llm)))),
        connector=ConnectorRecord(
            kind=run.study.connector_of(run.arm), init_digest=state_digest(model.connector.state_dict())
        ),
        backbone=BackboneRecord.model_validate(loaded.record()),
        observed=observed(run.study, loaded, data.root, data.image_sets, num_positions(model.llm.config)),
    )


def _box_requests(data: StudyData) -> tuple[str, str]:
    """Return how training and test ask for a box, expressions replaced by ``{expression}``.

    The published pipeline trains without quotes and with a full stop, and tests the other way round; the audit
    warns where the two differ. Without boxes on both sides there is nothing to compare.
    """
    asked = (message for instruction in data.instructions for message in instruction.messages[::2])
    trained = next((message for message in asked if _BOX_MARK in message), None)
    tested = [
        benchmark.user_message(examples[0])
        for benchmark, examples, _ in data.asked
        if benchmark.answer_kind == "box" and examples
    ]
    if trained is None or not tested:
        return "{question}", "{question}"
    return _template(trained), _template(tested[0])


def _template(request: str) -> str:
    before, mark, expression = request.partition(_BOX_MARK)
    words = expression.strip(" \"'.")
    return before + mark + expression.replace(words, "{expression}") if words else request


@cache
def folder_digest(folder: Path) -> str:
    """Return the sha256 (hex) over the names and sums of all files of a folder, read once a process."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest({str(path.relative_to(folder)): sha256_of(path) for path in files})
