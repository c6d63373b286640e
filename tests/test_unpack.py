"""Archives are unpacked whole or not at all, and hostile ones not at all."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from eyeswap import unpack as module
from eyeswap.errors import DataError, EnvironmentProblem
from eyeswap.progress import progress
from eyeswap.unpack import unpack


def zip_of(path: Path, **files: bytes) -> Path:
    return zip_named(path, {name.replace("__", "/"): content for name, content in files.items()})


def zip_named(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def run(archive: Path, member: str, target: Path) -> None:
    with progress() as board:
        unpack(archive, member, target, board)


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_taken_out_whatever_lies_around_it(tmp_path: Path) -> None:
    files = {"data/images/a.jpg": b"1", "data/images/deep/b.jpg": b"2", "data/readme": b"", "__MACOSX/images/x": b""}
    archive = zip_named(tmp_path / "a.zip", files | {"data/images/images/c.jpg": b"3"})
    run(archive, "data/images", tmp_path / "out" / "photos")
    assert everything(tmp_path / "out") == ["photos/a.jpg", "photos/deep/b.jpg", "photos/images/c.jpg"]
    assert (tmp_path / "out" / "photos" / "deep" / "b.jpg").read_bytes() == b"2"


def test_what_a_killed_unpacking_left_is_no_part_of_the_next(tmp_path: Path) -> None:
    (tmp_path / "out" / ".photos.unpacking").mkdir(parents=True)
    (tmp_path / "out" / ".photos.unpacking" / "torn.jpg").write_bytes(b"x")
    run(zip_of(tmp_path / "a.zip", images__a=b"1"), "images", tmp_path / "out" / "photos")
    assert everything(tmp_path / "out") == ["photos/a"]


def test_a_file_is_taken_out(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", Annotations__val=b"wrong", Annotations__train=b"x")
    run(archive, "val", tmp_path / "out" / "val.json")
    assert (tmp_path / "out" / "val.json").read_bytes() == b"wrong"
    assert everything(tmp_path / "out") == ["val.json"]


def test_a_tar_is_unpacked_too(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for name in ("./OCID/a.png", "./OCID/b/c.png", "./other"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    run(tmp_path / "a.tar.gz", "OCID", tmp_path / "out")
    assert everything(tmp_path / "out") == ["a.png", "b/c.png"]
    assert (tmp_path / "out" / "b" / "c.png").read_bytes() == b"abc"


@pytest.mark.parametrize("name", ["../evil", "images/../../evil", "/tmp/evil", "images\\..\\evil"])
def test_a_name_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    archive = zip_named(tmp_path / "a.zip", {"images/a.jpg": b"1", name: b"2"})
    with pytest.raises(DataError, match=r"a.zip: refused, entry '.*' leaves its folder"):
        run(archive, "images", tmp_path / "out" / "images")
    assert everything(tmp_path) == ["a.zip"]


def test_links_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("images/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("images/a.jpg", b"1")
        opened.writestr(info, "/etc/passwd")
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        link = tarfile.TarInfo("images/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    for archive in ("a.zip", "b.tar"):
        with pytest.raises(DataError, match="refused, entry 'images/link' is a link or a device"):
            run(tmp_path / archive, "images", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PLAUSIBLE_BYTES", 10_000)
    archive = zip_named(tmp_path / "a.zip", {"images/a": bytes(5_000_000), "images/b": bytes(5_000_000)})
    with pytest.raises(DataError, match=r"a.zip: refused, [\d,]+ bytes that unpack to 10,000,000"):
        run(archive, "images", tmp_path / "out")
    assert everything(tmp_path) == ["a.zip"]


def test_an_entry_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    archive = zip_named(tmp_path / "a.zip", {"images/a": bytes(50_000)})
    content = archive.read_bytes()
    archive.write_bytes(content.replace((50_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(DataError, match=r"a.zip: not a complete archive"):
        run(archive, "images", tmp_path / "out")
    assert everything(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("harm", ["cut", "page", "flipped"])
def test_a_damaged_archive_leaves_nothing(tmp_path: Path, harm: str) -> None:
    archive = zip_named(tmp_path / "a.zip", {"images/a": bytes(range(256)) * 40, "images/b": b"2"})
    content = archive.read_bytes()
    flipped = content[:60] + bytes([content[60] ^ 255]) + content[61:]
    archive.write_bytes({"cut": content[:-30], "page": b"<html>", "flipped": flipped}[harm])
    with pytest.raises(DataError, match=r"a.zip: not a complete archive"):
        run(archive, "images", tmp_path / "out")
    assert everything(tmp_path) == ["a.zip"]


def test_an_archive_without_the_member_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.zip: contains no images; the publisher may have changed the archive"):
        run(zip_of(tmp_path / "a.zip", other__a=b"1"), "images", tmp_path / "out")


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zip_of(tmp_path / "a.zip", images__a=b"1" * 100)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 50})())
    with pytest.raises(EnvironmentProblem, match="unpacking needs"):
        run(archive, "images", tmp_path / "out")
    monkeypatch.undo()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copyfileobj", full)
    with pytest.raises(EnvironmentProblem, match=r"out: No space left on device while unpacking a.zip"):
        run(archive, "images", tmp_path / "out")
    assert everything(tmp_path) == ["a.zip"]
