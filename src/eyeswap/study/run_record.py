"""Write ``spec.json``, the record of everything that determined a run, for the audit and for readers."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import asdict

from eyeswap.audit.observed import canvas_of, observed
from eyeswap.backbones.state import state_digest
from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.errors import RunError
from eyeswap.files import sha256_of, write_json
from eyeswap.planning.plan import PlannedRun
from eyeswap.runs.environment import environment
from eyeswap.runs.record import BackboneRecord, ConnectorRecord, LanguageModelRecord, RunRecord, read_index, write_index
from eyeswap.runs.recorded import read_record, write_record
from eyeswap.study.study_data import LeftOut, StudyData
from eyeswap.training.batches import TrainingData
from eyeswap.training.order import order_digest
from eyeswap.vlm.llm import num_positions
from eyeswap.vlm.model import VisionLanguageModel
from eyeswap.vlm.processor import VisionLanguageProcessor

NO_BOX_REQUEST = "{question}"
_BOX_MARK = "region this sentence describes:"


def write_records(
    run: PlannedRun,
    data: StudyData,
    loaded: LoadedBackbone,
    model: VisionLanguageModel,
    trained_on: TrainingData,
    unanswered: Sequence[LeftOut] = (),
) -> None:
    """Write the record, ``environment.json`` and, if records are not learnt from, ``left-out.json`` with the reasons.

    Args:
        run: the run.
        data: its training data.
        loaded: its backbone.
        model: the untrained VLM.
        trained_on: the tokenized conversations, in training order.
        unanswered: records without an answer token left.
    """
    if data.left_out or unanswered:
        write_json(run.files.left_out, [asdict(record) for record in (*data.left_out, *unanswered)])
    write_record(run.files.environment, environment())
    record = _record(run, data, loaded, model, trained_on)
    if unanswered:
        counts = {**(record.left_out or {}), "without_answer": len(unanswered)}
        record = record.model_copy(update={"left_out": counts})
    write_record(run.files.record, record)


def record_questions(run: PlannedRun, data: StudyData, loaded: LoadedBackbone) -> None:
    """Update the record of a trained run before it is asked further benchmarks.

    Args:
        run: the run.
        data: the benchmarks that it will be asked.
        loaded: its backbone.

    Raises:
        DataError: if the record is damaged.
    """
    record = read_record(run.files.record, RunRecord)
    processor = VisionLanguageProcessor.from_pretrained(run.files.model)
    request = _tested_request(data)
    canvas = canvas_of(loaded.geometry, loaded.name, data.root, data.image_sets)
    identity = run.model.with_backbone(loaded.weights_sha256)
    changed = {
        "benchmarks": run.study.benchmarks,
        "test_box_frame": run.study.recipe.test_box_frame,
        "test_prompt": record.test_prompt if request is None else processor.prompt.question(request),
        "observed": record.observed.model_copy(update={"canvas": {**record.observed.canvas, **canvas}}),
        "model": identity,
        "model_digest": identity.digest,
        "image_digests": {**(record.image_digests or {}), **data.image_digests},
    }
    if run.files.benchmarks.is_file():
        _complete_index(run, {benchmark.name for benchmark, _, _ in data.asked})
    write_record(run.files.record, record.model_copy(update=changed))


def refuse_changed_images(run: PlannedRun, data: StudyData, planned: Sequence[PlannedRun]) -> None:
    """Refuse a run whose images are not those that runs of its study, itself included, have recorded.

    Args:
        run: the run that is to be trained or asked.
        data: its training conversations, benchmarks, or both.
        planned: all runs of the study.

    Raises:
        RunError: naming the set of images and the run that saw it otherwise.
        DataError: if a record is damaged.
    """
    for other in planned:
        record = other.record
        recorded = {} if record is None else record.image_digests or {}
        for name, now in data.image_digests.items():
            before = recorded.get(name, now)
            is_hashed_alike = before.partition(":")[0] == now.partition(":")[0]
            if before != now and is_hashed_alike and _is_same_set(name, run, data, other):
                raise RunError(
                    f"{run.folder}: images of {name} have changed since {other.arm}, seed {other.seed} saw them; "
                    f"restore them below {data.root}, or delete the runs that saw the former ones"
                )


def _is_same_set(name: str, run: PlannedRun, data: StudyData, other: PlannedRun) -> bool:
    """Whether another run names the same images under a name: only then do digests tell of their bytes."""
    if name == "training":
        return other.record is not None and other.record.data_digest == data.digest
    entry = read_index(other.files.benchmarks).get(name) if other.files.benchmarks.is_file() else None
    identities = {benchmark.name: benchmark.identity for benchmark in run.benchmarks}
    return entry is not None and (entry.identity, entry.subset) == (identities.get(name), run.study.subset)


def _complete_index(run: PlannedRun, renewed: Container[str]) -> None:
    """Add identity and subset to entries of versions that recorded only a digest of all benchmarks together."""
    index = read_index(run.files.benchmarks)
    for benchmark in run.benchmarks:
        entry = index.get(benchmark.name)
        if entry is not None and entry.identity is None and benchmark.name not in renewed:
            update = {"identity": benchmark.identity, "subset": run.study.subset}
            index[benchmark.name] = entry.model_copy(update=update)
    write_index(run.files.benchmarks, index)


def _record(
    run: PlannedRun, data: StudyData, loaded: LoadedBackbone, model: VisionLanguageModel, trained_on: TrainingData
) -> RunRecord:
    recipe, own, before = run.study.recipe, run.recipe, run.record
    trained, tested = _trained_request(data), _tested_request(data)
    identity = run.model.with_backbone(loaded.weights_sha256)
    record = RunRecord(
        study=run.study.name,
        arm=run.arm,
        seed=run.seed,
        model=identity,
        model_digest=identity.digest,
        recipe=recipe.model_dump(mode="json"),
        recipe_digest=recipe.digest,
        data_digest=data.digest,
        order_digest=order_digest(trained_on.order, trained_on.ids),
        num_steps=len(trained_on.order),
        left_out={"records": len(data.left_out), "images": len({record.image for record in data.left_out})},
        train_prompt=model.prompt.question(trained or NO_BOX_REQUEST),
        test_prompt=model.prompt.question(tested or NO_BOX_REQUEST),
        train_box_frame=own.trained_box_frame,
        test_box_frame=recipe.test_box_frame,
        benchmarks=run.study.benchmarks,
        may_differ=run.study.may_differ,
        llm=LanguageModelRecord(name=own.llm, sha256=identity.weights["llm"]),
        connector=ConnectorRecord(
            kind=model.connector.kind,
            file_sha256=None if model.connector.file is None else sha256_of(model.connector.file),
            init_digest=state_digest(model.connector.state_dict()),
            num_tokens=model.connector.tokens_of(loaded.token_grid),
        ),
        backbone=BackboneRecord.model_validate(loaded.record()),
        image_digests=data.image_digests,
        observed=observed(run.study, loaded, data.root, data.image_sets, num_positions(model.llm.config)),
    )
    is_old = before is not None and before.run_digest is not None  # its checkpoints carry this digest
    return record.model_copy(update={"run_digest": before.run_digest}) if before and is_old else record


def _trained_request(data: StudyData) -> str | None:
    """Return the training request for a box, its expression replaced by ``{expression}``; None if there is none.

    The published pipeline trains without quotes and with a full stop, and tests the other way round; the audit
    warns if training and test requests differ.
    """
    questions = (message for instruction in data.instructions for message in instruction.messages[::2])
    return next((_template(question) for question in questions if _BOX_MARK in question), None)


def _tested_request(data: StudyData) -> str | None:
    """Return the benchmarks' request for a box, as `_trained_request` does for training."""
    for benchmark, examples, _ in data.asked:
        if benchmark.answer_kind == "box" and examples:
            return _template(benchmark.user_message(examples[0]))
    return None


def _template(request: str) -> str:
    before, mark, expression = request.partition(_BOX_MARK)
    words = expression.strip(" \"'.")
    return before + mark + expression.replace(words, "{expression}") if words else request
