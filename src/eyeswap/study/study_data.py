"""The data that all runs of a study share: training conversations, benchmarks and visual tokens, read and checked once.

A missing or undecodable training image is found here, not after hours of training. With ``skip_missing`` its records
are skipped before the batch order is drawn, for every arm alike. The result is kept in the study's folder, so that a
resumed study trains on the same records.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.data.digits.write import (
    INSTRUCTION_FILE,
    INSTRUCTION_IMAGES,
    DigitsSize,
    draw_annotated_images,
    num_scenes,
    write_digits,
)
from eyeswap.data.formats import Example
from eyeswap.data.image_digests import Hashing, digests_of_sets
from eyeswap.data.instruction import Instruction, read_instructions
from eyeswap.data.official.subsets import subsample
from eyeswap.data.preflight import inspect_images
from eyeswap.digests import known_sha256
from eyeswap.errors import DataError
from eyeswap.evaluation import get_benchmark
from eyeswap.evaluation.baselines import TrivialBaseline
from eyeswap.evaluation.benchmark import Benchmark
from eyeswap.files import digest, read_json, write_json
from eyeswap.planning.plan import PlannedRun
from eyeswap.planning.spec import Study
from eyeswap.processes import Ranks
from eyeswap.progress import Progress
from eyeswap.recipe import Data, DigitsData, FolderData
from eyeswap.runs.folder import StudyFolder
from eyeswap.tokens.cache import TokenCache, cache_tokens, open_store
from eyeswap.tokens.store import ImageDigests
from eyeswap.training.collate import EncodedConversations

_MOST_LISTED = 3  # records or images that a message lists


@dataclass(frozen=True)
class LeftOut:
    """A training record that the model does not learn from.

    Attributes:
        record: its number in the file, from 1.
        record_id: its id.
        image: its image, usually the unusable one; empty for a text-only record.
        reason: why it is not used.
    """

    record: int
    record_id: str
    image: str
    reason: str


@dataclass(frozen=True)
class StudyData:
    """The data that all runs of a study share.

    Attributes:
        root: folder that image paths are relative to.
        digest: digest of the training file's bytes and of the skipped records; empty if nothing is trained.
        instructions: the training conversations; empty if nothing is trained.
        asked: benchmarks with their examples and trivial baselines.
        left_out: the skipped records.
        encoded: tokenized conversations, shared by later arms; filled by `eyeswap.study.train_run`.
        hash_images: how much of each image `image_digests` reads.
        of_arms: training data of arms that have their own, by `data_key`.
    """

    root: Path
    digest: str
    instructions: Sequence[Instruction]
    asked: Sequence[tuple[Benchmark, Sequence[Example], TrivialBaseline]]
    left_out: Sequence[LeftOut] = ()
    encoded: dict[str, EncodedConversations] = field(default_factory=dict)
    hash_images: Hashing = "sampled"
    of_arms: Mapping[str, StudyData] = field(default_factory=dict)

    def for_training(self, source: Data) -> StudyData:
        """Return what a run trains on: this, or the data of its arm, with which nothing is asked."""
        return self.of_arms.get(data_key(source), self)

    @property
    def image_sets(self) -> dict[str, list[str]]:
        """The images of the training data and of each benchmark, by name."""
        training = [instruction.image for instruction in self.instructions if instruction.image is not None]
        tested = {benchmark.name: [example.image for example in examples] for benchmark, examples, _ in self.asked}
        return {"training": training, **tested}

    @property
    def images(self) -> list[str]:
        """Every image of a run without duplicates, training images first."""
        return list(dict.fromkeys(image for images in self.image_sets.values() for image in images))

    @cached_property
    def image_digests(self) -> dict[str, str]:
        """A digest of the image bytes of each of the `image_sets`, computed once for all runs."""
        return digests_of_sets(self.root, self.image_sets, self.hash_images)

    def for_asking(self, names: Container[str]) -> StudyData:
        """Return the data for asking a trained run the named benchmarks."""
        return replace(self, instructions=(), asked=[entry for entry in self.asked if entry[0].name in names])


def prepare_data(
    study: Study,
    study_dir: Path,
    board: Progress,
    benchmarks: Container[str] | None = None,
    *,
    for_training: bool = True,
) -> StudyData:
    """Write the embedded data set if the study uses it, and read the training and test data.

    Args:
        study: the study.
        study_dir: its folder.
        board: shows progress.
        benchmarks: names of the benchmarks to ask; all by default.
        for_training: whether anything is to be trained.

    Raises:
        DataError: naming the file and row that is wrong, or the unusable training images.
    """
    folder = StudyFolder(study_dir)
    data = _read_data(study.recipe.data, folder.data, folder.training_images, board, for_training)
    root, of_arms = data.root, {}
    if study.split == "train" and isinstance(study.recipe.data, DigitsData):
        draw_annotated_images(root, _size(study.recipe.data))
    for source in (study.recipe_of(arm).data for arm in study.arms) if for_training else ():
        key = data_key(source)
        if source != study.recipe.data and key not in of_arms:
            own = _read_data(source, folder.data_of(key), folder.training_images_of(key), board, for_training)
            of_arms[key] = replace(own, hash_images=study.execution.hash_images)
    asked = []
    for benchmark in map(get_benchmark, study.benchmarks):
        if benchmarks is None or benchmark.name in benchmarks:
            asked.append((benchmark, _examples(study, benchmark, root), TrivialBaseline.of(benchmark, root)))
    return replace(data, asked=asked, hash_images=study.execution.hash_images, of_arms=of_arms)


def _examples(study: Study, benchmark: Benchmark, root: Path) -> list[Example]:
    """Return the examples of a benchmark that a study asks."""
    if study.subset is None:
        return benchmark.examples(root, study.split)
    if study.split == "eval":
        return benchmark.slim(root, study.subset)
    return subsample(benchmark.examples(root, study.split), study.subset, benchmark.slim_part)


def data_key(source: Data) -> str:
    """Return a short name of training data as the study file declares them."""
    return digest(source.model_dump(mode="json"))[:12]


def _size(source: DigitsData) -> DigitsSize:
    return DigitsSize(source.seed, source.num_train_images, source.num_val_images, source.turns)


def _read_data(source: Data, drawn: Path, unusable: Path, board: Progress, for_training: bool) -> StudyData:
    """Draw the embedded data set into a folder, or read the conversations of another; none unless for training."""
    if isinstance(source, DigitsData):
        size = _size(source)
        task = board.task("drawing the data set", num_scenes(size))
        data = StudyData(drawn, write_digits(drawn, size, task.advance), (), ())
        if not for_training:
            return data
        return replace(data, instructions=read_instructions(drawn / INSTRUCTION_FILE, INSTRUCTION_IMAGES))
    return _training_data(source, unusable, board) if for_training else StudyData(Path(source.folder), "", (), ())


def _training_data(source: FolderData, kept: Path, board: Progress) -> StudyData:
    """Read the training conversations of a folder; records whose image is unusable are skipped or refused."""
    root = Path(source.folder)
    path = root / source.instruction
    warnings: list[str] = []
    records = read_instructions(path, str(Path(source.instruction).parent), warn=warnings.append)
    for warning in warnings[:_MOST_LISTED]:
        board.say(warning)
    if len(warnings) > _MOST_LISTED:
        more = f"and {len(warnings) - _MOST_LISTED:,} more such records (`eyeswap data check` lists them)"
        board.say(more)
    data_digest = known_sha256(path)
    unusable = unusable_images(root, records, data_digest, kept, board)
    instructions, left_out = _split(records, unusable)
    _check_left_out(path, source, len(records), left_out)
    if left_out:
        message = f"{len(left_out):,} of {len(records):,} records are skipped: their image is missing or unreadable"
        board.say(f"{message} (left-out.json in each run's folder lists them)")
        data_digest = digest([data_digest, [record.record for record in left_out]])
    return StudyData(root, data_digest, instructions, (), left_out)


def unusable_images(
    root: Path, records: Sequence[Instruction], file_digest: str, kept: Path, board: Progress
) -> Mapping[str, str]:
    """Return each training image that is missing or cannot be decoded, with the reason; images are decoded only once.

    Args:
        root: folder that image paths are relative to.
        records: the training records.
        file_digest: digest of the file that they come from.
        kept: file in which the result is kept for the next call.
        board: shows how many images are decoded.
    """
    unusable: dict[str, str]
    if kept.is_file():
        content = read_json(kept)
        if content["instructions"] == file_digest:
            unusable = content["unusable"]
            return unusable
    unusable = inspect_images(records, root, board=board).unusable_images
    write_json(kept, {"instructions": file_digest, "unusable": unusable})
    return unusable


def _split(records: Sequence[Instruction], unusable: Mapping[str, str]) -> tuple[list[Instruction], list[LeftOut]]:
    """Split the records into those that can be trained on and those that cannot."""
    used, left_out = [], []
    for number, record in enumerate(records, start=1):
        if record.image is not None and record.image in unusable:
            left_out.append(LeftOut(number, record.record_id, record.image, unusable[record.image]))
        else:
            used.append(record)
    return used, left_out


def _check_left_out(path: Path, source: FolderData, num_records: int, left_out: Sequence[LeftOut]) -> None:
    reasons = {record.image: record.reason for record in left_out}
    first = ", ".join(f"{image} ({reason})" for image, reason in list(reasons.items())[:_MOST_LISTED])
    more = ", ..." if len(reasons) > _MOST_LISTED else ""
    if left_out and not source.skip_missing:
        raise DataError(
            f"{path}: {len(left_out):,} of {num_records:,} records show an image that is missing or unreadable: "
            f"{first}{more}; get the images, or skip these records with recipe.data.skip_missing: true"
        )
    if len(left_out) == num_records:
        raise DataError(f"{path}: no record is left to train on: {first or 'the file is empty'}{more}")


def without_answer(data: StudyData, encoded: EncodedConversations, max_text_tokens: int) -> list[LeftOut]:
    """Return the records that have no answer token left; they keep their place in the batches but add no loss.

    Args:
        data: the training data.
        encoded: its conversations as tokens.
        max_text_tokens: limit of the recipe.

    Raises:
        DataError: if no record has an answer token left.
    """
    reason = f"no answer token is left within max_text_tokens {max_text_tokens}"
    skipped = {record.record for record in data.left_out}
    numbers = [number for number in range(1, len(data.instructions) + len(skipped) + 1) if number not in skipped]
    unanswered = [
        LeftOut(numbers[row], data.instructions[row].record_id, data.instructions[row].image or "", reason)
        for row in np.flatnonzero(encoded.num_targets == 0).tolist()
    ]
    if unanswered and len(unanswered) == len(data.instructions):
        raise DataError(
            f"{data.root}: none of {len(unanswered):,} conversations has an answer to learn from: {reason} "
            f"({listed(unanswered)}); raise recipe.max_text_tokens, or check the data"
        )
    return unanswered


def listed(records: list[LeftOut]) -> str:
    """Return the first three records as text."""
    first = ", ".join(f"record {record.record} (id {record.record_id!r})" for record in records[:_MOST_LISTED])
    return first + (", ..." if len(records) > _MOST_LISTED else "")


_GB = 1e9


def cached_tokens(
    run: PlannedRun, data: StudyData, loaded: LoadedBackbone, folder: Path, board: Progress, ranks: Ranks
) -> TokenCache | None:
    """Return the cached visual tokens of all images of a run, or None if images are encoded as they are needed.

    Args:
        run: the run; its ``execution.cache_gb`` is the largest cache to write.
        data: its images.
        loaded: its backbone.
        folder: folder of all caches.
        board: shows progress.
        ranks: the processes, which compute together what is missing.
    """
    if loaded.wiring == "as-published" or run.recipe.tuned is not None:
        return None
    images = data.images
    loaded.network.to(ranks.device)  # tokens computed on different devices are stored separately
    needed, limit = missing_bytes(loaded, data, folder), run.study.execution.cache_gb * _GB
    if needed > limit:
        board.say(
            f"{run.arm}: {needed / _GB:,.3g} GB of visual tokens, more than execution.cache_gb {limit / _GB:g}; "
            "images are encoded as they are needed instead"
        )
        return None
    task = board.task(f"{run.arm}: visual tokens", len(images))
    return cache_tokens(folder, loaded, data.root, images, task.advance, ranks)


def missing_bytes(loaded: LoadedBackbone, data: StudyData, folder: Path) -> int:
    """Return the bytes by which a cache of all images would have to grow; no image is read."""
    rows, columns = loaded.token_grid
    store, digests = open_store(folder, loaded), ImageDigests(folder / "digests.jsonl")
    known = (digests.known(data.root / image) in store.rows for image in data.images) if len(store) else ()
    missing = len(data.images) - sum(known)
    return missing * rows * columns * loaded.network.embed_dim * 2
