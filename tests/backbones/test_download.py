from __future__ import annotations

import hashlib
import io
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from eyeswap import download as module
from eyeswap.backbones import catalog
from eyeswap.backbones.catalog import WeightsSource
from eyeswap.backbones.fetch import address, fetch, local_path
from eyeswap.download import cache_folder, download
from eyeswap.errors import CheckpointError

CONTENT = bytes(range(256)) * 20_000  # 5 MB, several chunks


class Server(ThreadingHTTPServer):
    """Serves one file; ``cuts`` is how many answers break off half-way, ``tag`` changes with the file."""

    content, tag, cuts, ranges, status = CONTENT, '"one"', 0, True, 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get("Range"))
        server.paths.append(self.path)
        if server.status:
            self.send_error(server.status)
            return
        start = 0
        if server.ranges and self.headers.get("Range") and self.headers.get("If-Range") == server.tag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        rest = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("ETag", server.tag)
        self.end_headers()
        if server.cuts:
            server.cuts -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    monkeypatch.setenv("EYESWAP_CACHE", str(tmp_path / "cache"))
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked, server.paths = [], []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/weights.pth"


def leftovers(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_arrives_whole_and_nothing_else_stays(server, tmp_path):
    download(url(server), tmp_path / "a" / "weights.pth", hashlib.sha256(CONTENT).hexdigest())
    assert (tmp_path / "a" / "weights.pth").read_bytes() == CONTENT
    assert leftovers(tmp_path) == ["weights.pth"]


def test_a_cut_connection_is_resumed_where_it_ended(server, tmp_path):
    server.cuts = 2
    download(url(server), tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT
    half = len(CONTENT) // 2
    assert server.asked == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]


def test_a_later_call_goes_on_after_all_attempts_failed(server, tmp_path):
    server.cuts = module.ATTEMPTS
    with pytest.raises(CheckpointError, match="call again to resume") as caught:
        download(url(server), tmp_path / "weights.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "weights.pth").exists()
    download(url(server), tmp_path / "weights.pth")
    assert server.asked[-1] is not None
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("change", ["other file", "no ranges"])
def test_a_file_that_changed_or_a_server_without_ranges_starts_over(server, tmp_path, change):
    server.cuts = module.ATTEMPTS
    with pytest.raises(CheckpointError):
        download(url(server), tmp_path / "weights.pth")
    if change == "other file":
        server.content, server.tag = b"another" * 100_000, '"two"'
    else:
        server.ranges = False
    download(url(server), tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth").read_bytes() == server.content


def test_a_wrong_hash_is_refused_and_leaves_nothing(server, tmp_path):
    with pytest.raises(CheckpointError, match="sha256"):
        download(url(server), tmp_path / "weights.pth", "0" * 64)
    assert leftovers(tmp_path) == []


def test_an_absent_file_is_one_line_at_once_and_a_failing_server_is_tried_again(server, tmp_path):
    server.status = 404
    with pytest.raises(CheckpointError, match="404"):
        download(url(server), tmp_path / "weights.pth")
    assert len(server.asked) == 1
    server.status = 503
    with pytest.raises(CheckpointError, match="503"):
        download(url(server), tmp_path / "weights.pth")
    assert len(server.asked) == 1 + module.ATTEMPTS


def test_fetch_downloads_once_and_checks_every_time(server):
    source = WeightsSource(
        file="weights.pth",
        layout="model",
        licence="MIT",
        url=url(server),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    path = fetch(source)
    assert fetch(source) == path
    assert len(server.asked) == 1
    path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="delete the file"):
        fetch(source)


def test_a_file_of_the_hub_goes_through_its_mirror_and_is_resumed_too(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    source = WeightsSource(file="model.safetensors", layout="plain", licence="MIT", hub="owner/name")
    server.cuts = 1
    assert fetch(source) == cache_folder() / "owner" / "name" / "model.safetensors"
    assert fetch(source).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={len(CONTENT) // 2}-"]
    assert server.paths == ["/owner/name/resolve/main/model.safetensors"] * 2


def test_a_file_in_the_cache_of_the_hub_is_not_fetched_again(server, monkeypatch, tmp_path):
    import huggingface_hub

    kept = tmp_path / "kept.safetensors"
    kept.write_bytes(b"kept")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: str(kept))
    source = WeightsSource(file="model.safetensors", layout="plain", licence="MIT", hub="owner/name")
    assert fetch(source) == kept
    assert server.asked == []


def test_a_folder_that_was_carried_over_needs_no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("EYESWAP_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "download", lambda *_: pytest.fail("went to the network"))
    for entry in catalog.entries().values():
        if not entry.weights.packaged:
            path = tmp_path / "weights" / entry.weights.place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            assert fetch(entry.weights) == path


def test_without_a_network_one_line_says_where_to_get_the_file_and_where_to_put_it(monkeypatch, tmp_path):
    monkeypatch.setenv("EYESWAP_CACHE", str(tmp_path))
    source = WeightsSource(file="x.pth", layout="plain", licence="MIT", url="http://no-such-host.invalid/x.pth")
    start = time.perf_counter()
    with pytest.raises(CheckpointError) as caught:
        fetch(source)
    assert time.perf_counter() - start < module.PAUSE_S * module.ATTEMPTS  # a name that nobody knows is not retried
    line = str(caught.value)
    assert address(source) in line
    assert f"put it at {local_path(source)}" in line
    assert "\n" not in line
    assert leftovers(tmp_path) == []


def test_processes_that_ask_at_once_share_one_download(server, tmp_path):
    askers = [threading.Thread(target=download, args=(url(server), tmp_path / "weights.pth")) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert server.asked == [None]
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT
    assert leftovers(tmp_path) == ["weights.pth"]


def test_a_folder_that_cannot_be_written_is_one_line(server, tmp_path, monkeypatch):
    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(tmp_path), "mkdir", refuse)
    with pytest.raises(CheckpointError, match="no permission to write; set EYESWAP_CACHE"):
        download(url(server), tmp_path / "a" / "weights.pth")


def test_a_page_in_place_of_the_file_is_refused(server, tmp_path):
    server.content = b"<html>please log in</html>"
    with pytest.raises(CheckpointError, match="sha256 of the download differs"):
        download(url(server), tmp_path / "weights.pth", hashlib.sha256(CONTENT).hexdigest())
    assert leftovers(tmp_path) == []


def test_no_network_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    with pytest.raises(CheckpointError, match=r"127\.0\.0\.1:9/x.*after 5 attempts") as caught:
        download("http://127.0.0.1:9/x", tmp_path / "x")
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path) == []


def zipped(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(f"released/{name}", CONTENT)
    return stream.getvalue()


def archived(server: Server) -> WeightsSource:
    address = f"http://127.0.0.1:{server.server_port}/weights.zip"
    return WeightsSource(file="weights.pth.tar", layout="backbone", licence="MIT", url=address)


def test_a_file_inside_an_archive_is_taken_out_and_the_archive_goes(server):
    server.content = zipped("weights.pth.tar")
    path = fetch(archived(server))
    assert path.name == "weights.pth.tar"
    assert path.read_bytes() == CONTENT
    assert leftovers(cache_folder()) == ["weights.pth.tar"]
    assert fetch(archived(server)) == path
    assert len(server.asked) == 1


@pytest.mark.parametrize("content", [zipped("something-else.pth"), b"not an archive"])
def test_an_archive_without_the_file_is_one_line(server, content):
    server.content = content
    with pytest.raises(CheckpointError, match=r"weights\.zip") as caught:
        fetch(archived(server))
    assert "\n" not in str(caught.value)
    assert not local_path(archived(server)).exists()


def test_a_file_that_no_program_can_get_says_where_a_person_can(server):
    with pytest.raises(CheckpointError, match=r"get it at https://drive\.google\.com/.* and put it at .*, or pass"):
        fetch(catalog.entry("spatial-mamba-tiny").weights)
    assert not server.asked
