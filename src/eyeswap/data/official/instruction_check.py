"""The pre-flight of instruction data: every record and every image, before a run is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyeswap.data.instruction import read_instructions
from eyeswap.data.official.box_frames import BoxFrames, FileBoxFrame, box_frames
from eyeswap.data.official.catalogue import FoundFile, look
from eyeswap.data.official.training_sets import TrainingSet
from eyeswap.data.preflight import Preflight, inspect_images
from eyeswap.errors import DataError, MissingFileError
from eyeswap.files import write_text
from eyeswap.progress import Progress


@dataclass(frozen=True)
class InstructionCheck:
    """What was found of an instruction file.

    Attributes:
        path: the file.
        data_set: the published set that it should be; None for a file of one's own.
        files: the sources of that set on disk.
        preflight: records and images; None if the file is not there or was refused.
        problem: why the file was refused, in one line; empty if it was not.
        warnings: records that are odd and can be trained on, one line each.
        boxes: what the boxes of its parts are fractions of.
    """

    path: Path
    data_set: TrainingSet | None
    files: Sequence[FoundFile]
    preflight: Preflight | None
    problem: str = ""
    warnings: Sequence[str] = ()
    boxes: Sequence[BoxFrames] = ()

    @property
    def box_frame(self) -> FileBoxFrame | None:
        """What the boxes of the file are fractions of, as far as annotations tell; None if they do not, or disagree."""
        frames = {one.frame for one in self.boxes if one.num_joined}
        return frames.pop() if len(frames) == 1 else None

    @property
    def complaints(self) -> list[str]:
        """What stands between these files and a run over all of them, one line each; empty if nothing does."""
        missing = [file.path for file in self.files if not file.exists]
        lines = [f"not on disk: {', '.join(missing)}"] if missing else []
        lines += [self.problem] if self.problem else []
        if self.preflight is None:
            return lines
        if self.data_set is not None:
            lines += self.data_set.complaints(self.preflight)
        for source in self.preflight.sources:
            for images, what in ((source.missing, "missing"), (source.undecodable, "undecodable")):
                if images:
                    shown = ", ".join(images[:3]) + (", ..." if len(images) > 3 else "")
                    lines.append(f"{len(images):,} of {source.num_images:,} images {what} in {source.folder}: {shown}")
        return lines

    @property
    def remedy(self) -> str:
        """What to do about missing and undecodable images; empty if there are none."""
        if self.preflight is None or not self.preflight.unusable_images:
            return ""
        fetch = f"get them (`eyeswap data fetch {self.data_set.name}`)" if self.data_set else "get them"
        return (
            f"{fetch}, or set `skip_missing: true` in recipe.data: the {self.preflight.num_skipped:,} records that "
            "show them are left out, and the run says so"
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        found = self.preflight
        row: dict[str, Any] = {} if self.data_set is None else described(self.data_set, self.files)
        row |= {"file": str(self.path), "complete": not self.complaints, "complaints": self.complaints}
        row |= {"warnings": list(self.warnings), "box_frame": self.box_frame}
        row |= {"boxes": [one.as_json() for one in self.boxes]}
        if found is not None:
            row |= {
                "records": found.num_records,
                "text_only": found.num_text_only,
                "turns": found.num_turns,
                "decoded": found.decoded,
                "records_to_skip": found.num_skipped,
                "sources": [
                    {
                        "folder": source.folder,
                        "records": source.num_records,
                        "images": source.num_images,
                        "missing": len(source.missing),
                        "undecodable": len(source.undecodable),
                    }
                    for source in found.sources
                ],
                "unusable_images": found.unusable_images,
            }
        return row


def described(data_set: TrainingSet, files: Sequence[FoundFile]) -> dict[str, Any]:
    """Return what the catalogue says of a training set, and which of its files are on disk, as plain JSON."""
    return {
        "training_set": data_set.name,
        "title": data_set.title,
        "about": data_set.about,
        "licence": data_set.licence,
        "published_records": sum(data_set.counts.values()),
        "files": [
            {
                "path": file.path,
                "exists": file.exists,
                "url": file.source.url,
                "download_size": file.source.size or None,
            }
            for file in files
        ],
    }


def check_training_set(data_set: TrainingSet, root: Path, decode: bool, board: Progress) -> InstructionCheck:
    """Check a published set below a data root; what is wrong with its file is told, not raised."""
    files, path = look(data_set, root), data_set.instruction_file(root)
    warnings: list[str] = []
    try:
        records = read_instructions(path, data_set.image_folder, board, warnings.append)
        boxes = box_frames(records, root)
    except MissingFileError:
        return InstructionCheck(path, data_set, files, None)  # which the list of files says
    except DataError as error:
        return InstructionCheck(path, data_set, files, None, str(error))
    preflight = inspect_images(records, root, decode, board=board)
    return InstructionCheck(path, data_set, files, preflight, warnings=warnings, boxes=boxes)


def check_instruction_file(path: Path, root: Path, decode: bool, board: Progress) -> InstructionCheck:
    """Check a file of one's own.

    Args:
        path: the instruction file.
        root: folder that its image names are relative to.
        decode: decode every image.
        board: where progress is shown.

    Raises:
        DataError: naming file, row and field, if the file does not follow the format.
    """
    warnings: list[str] = []
    records = read_instructions(path, "", board, warnings.append)
    preflight = inspect_images(records, root, decode, board=board)
    boxes = box_frames(records, data_root(root), root)
    return InstructionCheck(path, None, (), preflight, warnings=warnings, boxes=boxes)


def data_root(folder: Path) -> Path:
    """Return the data root that a folder of instruction data lies in, as ``<root>/download/<set>``; else the folder."""
    parents = folder.resolve().parents
    return parents[1] if len(parents) > 1 and parents[0].name == "download" else folder


def write_unusable(path: Path, found: InstructionCheck) -> int:
    """Write each missing or undecodable image and the reason, one a line with a tab between; return how many."""
    unusable = {} if found.preflight is None else found.preflight.unusable_images
    write_text(path, "".join(f"{image}\t{' '.join(reason.split())}\n" for image, reason in unusable.items()))
    return len(unusable)
