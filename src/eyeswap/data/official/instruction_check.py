"""Pre-flight check of an instruction file: all of its records, images and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyeswap.data.instruction import read_instructions
from eyeswap.data.official.box_frames import BoxFrames, FileBoxFrame, box_frames
from eyeswap.data.official.catalogue import FoundFile, TrainingSet, look
from eyeswap.data.preflight import Preflight, inspect_images
from eyeswap.errors import DataError, MissingFileError
from eyeswap.files import write_text
from eyeswap.progress import Progress


@dataclass(frozen=True)
class InstructionCheck:
    """The result of checking an instruction file.

    Attributes:
        path: the file.
        data_set: the published set that it should be; None for the user's own file.
        files: the sources of that set on disk.
        preflight: its records and images; None if the file is missing or was refused.
        problem: why the file was refused, in one line; empty if it was not.
        warnings: one line for each unusual record that can still be trained on.
        boxes: how the boxes of its parts agree with annotations.
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
        """The frame of the boxes in the file; None if annotations do not decide it, or its parts disagree."""
        frames = {part.frame for part in self.boxes if part.num_joined}
        return frames.pop() if len(frames) == 1 else None

    @property
    def complaints(self) -> list[str]:
        """The problems that keep a run from using all records, one line each."""
        missing = [file.path for file in self.files if not file.exists]
        lines = [f"not on disk: {', '.join(missing)}"] if missing else []
        lines += [self.problem] if self.problem else []
        if self.preflight is None:
            return lines
        if self.data_set is not None:
            lines += self.data_set.complaints(self.preflight)
        for source in self.preflight.sources:
            for images, state in ((source.missing, "missing"), (source.undecodable, "undecodable")):
                if images:
                    first = ", ".join(images[:3]) + (", ..." if len(images) > 3 else "")
                    lines.append(f"{len(images):,} of {source.num_images:,} images {state} in {source.folder}: {first}")
        return lines

    @property
    def remedy(self) -> str:
        """What to do about missing and undecodable images; empty if there are none."""
        if self.preflight is None or not self.preflight.unusable_images:
            return ""
        fetch = f"get them (`eyeswap data fetch {self.data_set.name}`)" if self.data_set else "get them"
        return (
            f"{fetch}, or set `skip_missing: true` in recipe.data to leave out the {self.preflight.num_skipped:,} "
            "records with these images, which the run then reports"
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
        preflight = self.preflight
        row: dict[str, Any] = {} if self.data_set is None else described(self.data_set, self.files)
        row |= {"file": str(self.path), "complete": not self.complaints, "complaints": self.complaints}
        row |= {"warnings": list(self.warnings), "box_frame": self.box_frame}
        row |= {"boxes": [part.as_json() for part in self.boxes]}
        if preflight is not None:
            row |= {
                "records": preflight.num_records,
                "text_only": preflight.num_text_only,
                "turns": preflight.num_turns,
                "decoded": preflight.decoded,
                "records_to_skip": preflight.num_skipped,
                "sources": [
                    {
                        "folder": source.folder,
                        "records": source.num_records,
                        "images": source.num_images,
                        "missing": len(source.missing),
                        "undecodable": len(source.undecodable),
                    }
                    for source in preflight.sources
                ],
                "unusable_images": preflight.unusable_images,
                "image_traits": dict(preflight.traits),
            }
        return row


def described(data_set: TrainingSet, files: Sequence[FoundFile]) -> dict[str, Any]:
    """Return a training set's entry in the catalogue and its files on disk as a JSON object."""
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
    """Check a published set below a data root; an error in its file is recorded instead of raised."""
    files, path = look(data_set, root), data_set.instruction_file(root)
    warnings: list[str] = []
    try:
        records = read_instructions(path, data_set.image_folder, board, warnings.append)
        boxes = box_frames(records, root)
    except MissingFileError:
        return InstructionCheck(path, data_set, files, None)  # the list of files shows it
    except DataError as error:
        return InstructionCheck(path, data_set, files, None, str(error))
    preflight = inspect_images(records, root, decode, board=board)
    return InstructionCheck(path, data_set, files, preflight, warnings=warnings, boxes=boxes)


def check_instruction_file(path: Path, root: Path, decode: bool, board: Progress) -> InstructionCheck:
    """Check the user's own instruction file.

    Args:
        path: the instruction file.
        root: folder to which its image paths are relative.
        decode: whether to decode every image.
        board: where progress is shown.

    Raises:
        DataError: naming file, row and field, if the file is malformed.
    """
    warnings: list[str] = []
    records = read_instructions(path, "", board, warnings.append)
    preflight = inspect_images(records, root, decode, board=board)
    boxes = box_frames(records, data_root(root), root)
    return InstructionCheck(path, None, (), preflight, warnings=warnings, boxes=boxes)


def data_root(folder: Path) -> Path:
    """Return the data root of a folder ``<root>/download/<set>``, or the folder itself if it is not one."""
    parents = folder.resolve().parents
    return parents[1] if len(parents) > 1 and parents[0].name == "download" else folder


def write_unusable(path: Path, check: InstructionCheck) -> int:
    """Write a line for each missing or undecodable image, with the reason after a tab; return their number."""
    unusable = {} if check.preflight is None else check.preflight.unusable_images
    write_text(path, "".join(f"{image}\t{' '.join(reason.split())}\n" for image, reason in unusable.items()))
    return len(unusable)
