"""Official files are fetched from a local server: cut, wrong, hostile, shared, and by hand."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eyeswap import download
from eyeswap.cli.main import app
from eyeswap.data.official import fetch as module
from eyeswap.data.official.catalogue import TRAINING_SETS, TrainingSet, sets_named
from eyeswap.data.official.families import FAMILIES, Family, Source
from eyeswap.data.official.fetch import fetch, plan_fetch
from eyeswap.data.official.prepare import inspect
from eyeswap.errors import EnvironmentProblem
from official_files import write_official_files


class Server(ThreadingHTTPServer):
    """Serves ``files`` by path; ``cuts`` is how many downloads break off half-way."""

    files: dict[str, bytes]
    asked: list[tuple[str, str, str | None]]
    cuts = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.answer(send=False)

    def do_GET(self) -> None:
        self.answer(send=True)

    def answer(self, send: bool) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.command, self.path, wanted))
        if self.path not in server.files:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        rest = server.files[self.path][start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("ETag", '"one"')
        self.end_headers()
        if send and server.cuts:
            server.cuts -= 1
            rest = rest[: len(rest) // 2]
        if send:
            self.wfile.write(rest)

    def log_message(self, *arguments: object) -> None:
        pass


def zipped(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for name, value in files.items():
            opened.writestr(name.replace("__", "/"), value)
    return content.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        server.files = {
            "/mix.json": json.dumps([{"id": 1}]).encode(),
            "/photos.zip": zipped(photos__a=b"A" * 3000, photos__b=b"B"),
        }
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def mix(server: Server, monkeypatch: pytest.MonkeyPatch) -> TrainingSet:
    """Two training sets in the catalogue that share their images; the first has a folder to get by hand."""
    base = f"http://127.0.0.1:{server.server_port}"
    digests = {hashlib.sha256(server.files["/mix.json"]).hexdigest(): "the only version"}
    file = Source(("mix.json",), f"{base}/mix.json", digests=digests)
    photos = Source(("coco/photos",), f"{base}/photos.zip", is_images=True, member="photos")
    scans = Source(("scans",), f"{base}/form", is_images=True, manual="fill in the form at the address")
    mix = TrainingSet("mix", "Mix", "a mix", "none", (file, photos, scans), {"": 1})
    other = TrainingSet("other", "Other", "another", "none", (file, photos), {"": 1})
    monkeypatch.setitem(TRAINING_SETS, "mix", mix)
    monkeypatch.setitem(TRAINING_SETS, "other", other)
    return mix


def below(root: Path) -> list[str]:
    return sorted(path.relative_to(root / "download").as_posix() for path in root.rglob("*") if path.is_file())


WHOLE = ["mix/coco/photos/a", "mix/coco/photos/b", "mix/mix.json"]


def test_files_and_archives_come_into_their_folders_and_nothing_else_stays(mix: TrainingSet, tmp_path: Path) -> None:
    plan = plan_fetch([mix], tmp_path)
    assert plan.total_bytes == 11 + len(zipped(photos__a=b"A" * 3000, photos__b=b"B"))
    assert [found.path for found in plan.by_hand] == ["download/mix/scans"]
    assert not list(tmp_path.iterdir())
    assert fetch(plan, tmp_path) == []
    assert below(tmp_path) == WHOLE
    assert [path.name for path in (tmp_path / "download").iterdir()] == ["mix"]


def test_what_is_there_is_left_alone(mix: TrainingSet, server: Server, tmp_path: Path) -> None:
    (tmp_path / "download" / "mix").mkdir(parents=True)
    (tmp_path / "download" / "mix" / "mix.json").write_text("mine")
    plan = plan_fetch([mix], tmp_path)
    assert [found.path for found in plan.here] == ["download/mix/mix.json"]
    assert fetch(plan, tmp_path) == []
    assert (tmp_path / "download" / "mix" / "mix.json").read_text() == "mine"
    assert "/mix.json" not in [path for _, path, _ in server.asked]
    server.asked.clear()
    again = plan_fetch([mix], tmp_path)
    assert not again.downloads
    assert server.asked == []


def test_images_that_sets_share_are_downloaded_once_and_linked(
    mix: TrainingSet, server: Server, tmp_path: Path
) -> None:
    other = TRAINING_SETS["other"]
    assert fetch(plan_fetch([mix, other], tmp_path), tmp_path) == []
    assert [path for command, path, _ in server.asked if command == "GET"].count("/photos.zip") == 1
    link = tmp_path / "download" / "other" / "coco" / "photos"
    assert link.is_symlink()
    assert not Path(link.readlink()).is_absolute()
    assert (link / "a").read_bytes() == b"A" * 3000
    link.unlink()
    later = plan_fetch([other], tmp_path)
    assert [target for _, target in later.links] == ["download/mix/coco/photos"]
    fetch(later, tmp_path)
    assert (link / "a").exists()


def test_a_cut_download_goes_on_where_it_ended(mix: TrainingSet, server: Server, tmp_path: Path) -> None:
    plan = plan_fetch([mix], tmp_path)
    plan.downloads.pop(mix.sources[0].url)
    server.cuts = download.ATTEMPTS
    (problem,) = fetch(plan, tmp_path)
    assert "call again to resume" in problem
    assert [Path(name).suffix for name in below(tmp_path)] == [".part", ".tag"]
    server.asked.clear()
    assert fetch(plan_fetch([mix], tmp_path), tmp_path) == []
    assert below(tmp_path) == WHOLE
    (first,) = [wanted for command, path, wanted in server.asked if (command, path) == ("GET", "/photos.zip")]
    assert first is not None


def test_another_file_than_the_catalogue_means_is_discarded_and_the_rest_comes(
    mix: TrainingSet, server: Server, tmp_path: Path
) -> None:
    server.files["/mix.json"] = b'[{"id": 2}]'
    (problem,) = fetch(plan_fetch([mix], tmp_path), tmp_path)
    assert "sha256 of the download differs" in problem
    assert below(tmp_path) == WHOLE[:2]


def test_a_hostile_or_damaged_archive_leaves_nothing(mix: TrainingSet, server: Server, tmp_path: Path) -> None:
    hostile = zipped(**{"photos__a": b"1", "..__..__evil": b"2"})
    for content, reason in ((hostile, "leaves its folder"), (b"<html>no", "not a complete archive")):
        server.files["/photos.zip"] = content
        (problem,) = fetch(plan_fetch([mix], tmp_path), tmp_path)
        assert reason in problem
        assert below(tmp_path) == ["mix/mix.json"]
    assert not (tmp_path.parent / "evil").exists()


def test_a_page_in_place_of_a_file_is_no_file(mix: TrainingSet, server: Server, tmp_path: Path) -> None:
    server.files["/page.json"] = b"\n<!DOCTYPE html>"
    page = Source(("page.json",), mix.sources[0].url.replace("mix.json", "page.json"))
    (problem,) = fetch(plan_fetch([TrainingSet("mix", "", "", "", (page,), {})], tmp_path), tmp_path)
    assert "the server sent a page, not page.json" in problem
    assert below(tmp_path) == []


def test_a_mirror_of_the_hub_is_asked_in_its_place(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    server.files["/datasets/a.json"] = b"[]"
    source = Source(("a.json",), "https://huggingface.co/datasets/a.json")
    assert fetch(plan_fetch([TrainingSet("mix", "", "", "", (source,), {})], tmp_path), tmp_path) == []
    assert below(tmp_path) == ["mix/a.json"]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["data", "fetch", *map(str, arguments)])


def test_the_command_says_what_it_will_do_and_asks(mix: TrainingSet, server: Server, tmp_path: Path) -> None:
    shown = run("mix", "--root", tmp_path)
    assert shown.exit_code == 2
    assert "Mix (mix): a mix; licence: none" in shown.stdout
    assert re.search(r"download  download/mix/mix.json <- \S+/mix.json \(\d+ B\)", shown.stdout)
    assert "by hand   download/mix/scans <- " in shown.stdout
    assert "fill in the form at the address" in shown.stdout
    assert re.search(r"^[\d.]+ K?B to download$", shown.stdout, re.MULTILINE)
    assert shown.stderr == "error: nothing was downloaded; pass --yes to start\n"
    assert not list(tmp_path.iterdir())
    shown = run("mix", "--root", tmp_path, "--yes")
    assert shown.exit_code == 0
    assert f"eyeswap data check mix --root {tmp_path}" in shown.stdout
    assert below(tmp_path) == WHOLE
    assert "nothing to download" in run("mix", "--root", tmp_path).stdout


def test_a_dead_address_is_told_before_the_others_are_fetched(mix: TrainingSet, server: Server, tmp_path: Path) -> None:
    del server.files["/photos.zip"]
    shown = run("mix", "--root", tmp_path, "--yes")
    assert shown.exit_code == 1
    assert "photos.zip (no answer)" in shown.stdout
    assert f"failed: {mix.sources[1].url}: the server answers 404 Not Found" in shown.stderr
    assert below(tmp_path) == ["mix/mix.json"]


def test_a_disk_without_room_is_told_before_anything_is_downloaded(
    mix: TrainingSet, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100})())
    shown = run("mix", "--root", tmp_path / "data", "--yes")
    assert shown.exit_code == EnvironmentProblem.exit_code
    assert "downloading and unpacking need" in shown.stderr
    assert not any(command == "GET" for command, _, _ in server.asked)


def test_a_root_that_is_a_file_is_told(mix: TrainingSet, tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(EnvironmentProblem, match="cannot be created: Not a directory"):
        fetch(plan_fetch([mix], tmp_path / "root"), tmp_path / "root")


def serve_official_files(server: Server, official: Path) -> dict[str, Family]:
    """Serve what lies below ``official`` as the catalogue's archives; return the catalogue with their addresses."""
    archives: dict[str, dict[str, bytes]] = {}
    families = {}
    for family in FAMILIES.values():
        sources = []
        for source in family.sources:
            path = family.folder(official) / source.names[0]
            name = "/" + hashlib.sha256(source.url.encode()).hexdigest()
            files = [file for file in path.rglob("*") if file.is_file()] if source.is_images else [path]
            for file in files if source.member else []:
                inside = f"around/{source.member}/{file.relative_to(path)}".removesuffix("/.")
                archives.setdefault(name, {})[inside] = file.read_bytes()
            if not source.member and not source.manual:
                server.files[name] = path.read_bytes()
            sources.append(replace(source, url=f"http://127.0.0.1:{server.server_port}{name}", digests={}))
        families[family.name] = replace(family, sources=tuple(sources))
    server.files |= {name: zipped(**files) for name, files in archives.items()}
    return families


def test_every_family_is_fetched_into_its_official_folders(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = write_official_files(tmp_path / "official")
    (tmp_path / "official" / "download" / "tally-qa" / "VG_100K_2" / "other.jpg").touch()
    for name, family in serve_official_files(server, tmp_path / "official").items():
        monkeypatch.setitem(FAMILIES, name, family)
    root = tmp_path / "root"
    plan = plan_fetch(list(FAMILIES.values()), root)
    assert fetch(plan, root) == []
    assert [found.path for found in plan.by_hand] == ["download/ocid-ref/val_expressions.json"]
    by_hand = root / plan.by_hand[0].path
    by_hand.write_bytes((tmp_path / "official" / plan.by_hand[0].path).read_bytes())
    for name, family in FAMILIES.items():
        found = inspect(family, root)
        assert all(file.exists for file in found.files), name
        assert not found.problem
        assert not found.missing_images
        assert sum(found.counts.values()) == len(expected[name])


@pytest.mark.parametrize("data_set", sets_named("all"), ids=lambda one: one.name)
def test_every_source_of_the_catalogue_can_be_fetched_or_says_what_to_do(data_set) -> None:
    for source in data_set.sources:
        assert source.url.startswith(("https://", "http://images.cocodataset.org/"))
        is_file = source.url.endswith((".json", ".jsonl"))
        assert bool(source.manual) or bool(source.member) or is_file, source.names
        if source.is_images:
            assert source.member or source.manual
