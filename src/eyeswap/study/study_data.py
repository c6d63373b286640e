"""What all runs of a study share: training conversations and benchmarks, read once and checked before hours are spent.

A training image that is missing or broken is found here, not at hour nine. With ``skip_missing`` the records that show
one are left out before the batch order is drawn, for every arm alike. What was found is kept in the study's folder, so
that a study that goes on trains on the same records.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.data.digits.write import INSTRUCTION_FILE, INSTRUCTION_IMAGES, DigitsSize, num_scenes, write_digits
from eyeswap.data.formats import Example
from eyeswap.data.image_digests import Hashing, digests_of_sets
from eyeswap.data.instruction import Instruction, read_instructions
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
from eyeswap.recipe import DigitsData, FolderData
from eyeswap.runs.folder import StudyFolder
from eyeswap.tokens.cache import TokenCache, cache_tokens, open_store
from eyeswap.tokens.store import ImageDigests
from eyeswap.training.collate import EncodedConversations

_NAMED = 3  # images that a message names


@dataclass(frozen=True)
class LeftOut:
    """A record that is not trained on.

    Attributes:
        record: its number in the file, from 1.
        record_id: its id.
        image: its image, in most cases the one that cannot be used; empty for text alone.
        reason: why not.
    """

    record: int
    record_id: str
    image: str
    reason: str


@dataclass(frozen=True)
class StudyData:
    """What all runs of a study share.

    Attributes:
        root: folder that image paths are relative to.
        digest: digest of the data's bytes, and of which records are left out; empty where nothing is trained.
        instructions: the training conversations; none where nothing is trained.
        asked: benchmarks with their examples and trivial baselines.
        left_out: the records that are not trained on.
        encoded: conversations in tokens, for arms to come; filled by `eyeswap.study.train_run`.
        hash_images: what of each image `image_digests` read.
    """

    root: Path
    digest: str
    instructions: Sequence[Instruction]
    asked: Sequence[tuple[Benchmark, Sequence[Example], TrivialBaseline]]
    left_out: Sequence[LeftOut] = ()
    encoded: dict[str, EncodedConversations] = field(default_factory=dict)
    hash_images: Hashing = "sampled"

    @property
    def image_sets(self) -> dict[str, list[str]]:
        """The images of the training data and of each benchmark, by name."""
        trained = [instruction.image for instruction in self.instructions if instruction.image is not None]
        tested = {benchmark.name: [example.image for example in examples] for benchmark, examples, _ in self.asked}
        return {"training": trained, **tested}

    @property
    def images(self) -> list[str]:
        """Every image that a run must see, each once: training images first."""
        return list(dict.fromkeys(image for images in self.image_sets.values() for image in images))

    @cached_property
    def image_digests(self) -> dict[str, str]:
        """A digest of the bytes of each of the `image_sets`; read once for all runs."""
        return digests_of_sets(self.root, self.image_sets, self.hash_images)

    def for_asking(self, names: Container[str]) -> StudyData:
        """Return the data of a run that is trained and still has to be asked some benchmarks."""
        return replace(self, instructions=(), asked=[one for one in self.asked if one[0].name in names])


def prepare_data(
    study: Study,
    study_dir: Path,
    board: Progress,
    benchmarks: Container[str] | None = None,
    *,
    for_training: bool = True,
) -> StudyData:
    """Write the embedded data set if the study uses it, and read the training and test data that are needed.

    Args:
        study: the study.
        study_dir: its folder.
        board: shows progress.
        benchmarks: names of those that are to be asked; all by default.
        for_training: whether anything is to be trained.

    Raises:
        DataError: naming the file and row that is wrong, or the training images that cannot be used.
    """
    source = study.recipe.data
    if isinstance(source, DigitsData):
        root = StudyFolder(study_dir).data
        size = DigitsSize(source.seed, source.num_train_images, source.num_val_images, source.turns)
        task = board.task("draw the data set", num_scenes(size))
        trained = StudyData(root, write_digits(root, size, task.advance), (), ())
        if for_training:
            trained = replace(trained, instructions=read_instructions(root / INSTRUCTION_FILE, INSTRUCTION_IMAGES))
    else:
        root = Path(source.folder)
        trained = _training_data(source, StudyFolder(study_dir), board) if for_training else StudyData(root, "", (), ())
    asked = []
    for benchmark in map(get_benchmark, study.benchmarks):
        if benchmarks is None or benchmark.name in benchmarks:
            examples = benchmark.slim(root, study.subset) if study.subset else benchmark.examples(root)
            asked.append((benchmark, examples, TrivialBaseline.of(benchmark, root)))
    return replace(trained, asked=asked, hash_images=study.execution.hash_images)


def _training_data(source: FolderData, folder: StudyFolder, board: Progress) -> StudyData:
    """Read the training conversations of a folder; those whose image cannot be used are left out, or refused."""
    root = Path(source.folder)
    path = root / source.instruction
    odd: list[str] = []
    records = read_instructions(path, str(Path(source.instruction).parent), warn=odd.append)
    for line in odd[:_NAMED]:
        board.console.print(line, highlight=False)
    if len(odd) > _NAMED:
        board.console.print(f"and {len(odd) - _NAMED:,} more such records (`eyeswap data check`)", highlight=False)
    data_digest = known_sha256(path)
    unusable = unusable_images(root, records, data_digest, folder.training_images, board)
    instructions, left_out = _split(records, unusable)
    _complain(path, source, len(records), left_out)
    if left_out:
        message = f"{len(left_out):,} of {len(records):,} records are left out: their image is missing or unreadable"
        board.console.print(f"{message} (left-out.json in each run's folder names them)", highlight=False)
        data_digest = digest([data_digest, [one.record for one in left_out]])
    return StudyData(root, data_digest, instructions, (), left_out)


def unusable_images(
    root: Path, records: Sequence[Instruction], file_digest: str, kept: Path, board: Progress
) -> Mapping[str, str]:
    """Return each training image that is missing or cannot be decoded, with the reason; every image is looked at once.

    Args:
        root: folder that image paths are relative to.
        records: the training records.
        file_digest: of the file that they come from.
        kept: where the answer is kept for the next time.
        board: shows how many images are decoded.
    """
    if kept.is_file():
        known = read_json(kept)
        if known["instructions"] == file_digest:
            found: dict[str, str] = known["unusable"]
            return found
    unusable = inspect_images(records, root, board=board).unusable_images
    write_json(kept, {"instructions": file_digest, "unusable": unusable})
    return unusable


def _split(records: Sequence[Instruction], unusable: Mapping[str, str]) -> tuple[list[Instruction], list[LeftOut]]:
    """Tell the records that can be trained on from the others."""
    used, left_out = [], []
    for number, record in enumerate(records, start=1):
        if record.image is not None and record.image in unusable:
            left_out.append(LeftOut(number, record.record_id, record.image, unusable[record.image]))
        else:
            used.append(record)
    return used, left_out


def _complain(path: Path, source: FolderData, num_records: int, left_out: Sequence[LeftOut]) -> None:
    reasons = {one.image: one.reason for one in left_out}
    first = ", ".join(f"{image} ({reason})" for image, reason in list(reasons.items())[:_NAMED])
    more = ", ..." if len(reasons) > _NAMED else ""
    if left_out and not source.skip_missing:
        raise DataError(
            f"{path}: {len(left_out):,} of {num_records:,} records show an image that is missing or unreadable: "
            f"{first}{more}; get the images, or leave these records out with recipe.data.skip_missing: true"
        )
    if len(left_out) == num_records:
        raise DataError(f"{path}: no record is left to train on: {first or 'the file is empty'}{more}")


_GB = 1e9


def cached_tokens(
    run: PlannedRun, data: StudyData, loaded: LoadedBackbone, folder: Path, board: Progress, ranks: Ranks
) -> TokenCache | None:
    """Return the cached tokens of all images of a run, or None if they are to be made when they are needed.

    Args:
        run: the run; its ``execution.cache_gb`` is the largest cache to write.
        data: its images.
        loaded: its backbone.
        folder: where caches live.
        board: shows progress.
        ranks: the processes; the first one computes what is missing.
    """
    if loaded.wiring == "as-published":
        return None
    images = data.images
    loaded.network.to(ranks.device)  # tokens of another device are kept apart
    needed, most = missing_bytes(loaded, data, folder), run.study.execution.cache_gb * _GB
    if needed > most:
        board.console.print(
            f"{run.arm}: {needed / _GB:,.3g} GB of visual tokens, more than execution.cache_gb {most / _GB:g}; "
            "they are made when they are needed",
            highlight=False,
        )
        return None
    task = board.task(f"{run.arm}: visual tokens", len(images))
    with ranks.first_alone():
        return cache_tokens(folder, loaded, data.root, images, task.advance)


def missing_bytes(loaded: LoadedBackbone, data: StudyData, folder: Path) -> int:
    """Return the bytes that a cache of all images would have to grow by; no image is read."""
    rows, columns = loaded.token_grid
    store, digests = open_store(folder, loaded), ImageDigests(folder / "digests.jsonl")
    known = (digests.known(data.root / image) in store.rows for image in data.images) if len(store) else ()
    missing = len(data.images) - sum(known)
    return missing * rows * columns * loaded.network.embed_dim * 2
