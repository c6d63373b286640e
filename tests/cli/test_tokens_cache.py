"""`eyeswap tokens cache`: what it stores is what the backbone gives, once; a dry run measures and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from eyeswap.backbones.weights import load_backbone
from eyeswap.cli.main import app
from eyeswap.cli.tokens import images_of
from eyeswap.data.digits.write import DigitsSize, write_digits
from eyeswap.tokens.cache import cache_tokens, open_store, token_folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_digits(root, DigitsSize(1, 12, 6, 2))
    return root


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["tokens", "cache", "--device", "cpu", *(str(word) for word in words)])


def test_a_dry_run_says_cost_and_saving_and_writes_nothing(data: Path, tmp_path: Path):
    result = run("--backbone", "digits-vit", "--data", data, "--out", tmp_path / "tokens", "--dry-run")
    assert result.exit_code == 0, result.output
    assert f"{len(images_of(data)[1])}, of which 0 are already stored" in result.output
    assert "64 tokens x 128 x 2 bytes = 16.4 KB" in result.output
    assert f"{len(images_of(data)[1]) * 64 * 128 * 2 / 1000:.1f} KB (" in result.output
    assert "of digits-vit in every later pass" in result.output
    assert not (tmp_path / "tokens").exists()


def test_tokens_are_stored_once_and_are_those_of_the_backbone(data: Path, tmp_path: Path):
    words = ("--backbone", "digits-vit", "--data", data, "--out", tmp_path, "--json")
    count = len(images_of(data)[1])
    first = json.loads(run(*words).stdout)
    assert (first["images"], first["tokens"], first["width"], first["verified"]) == (count, 64, 128, 16)
    assert first["bytes"] == count * 64 * 128 * 2
    dry = json.loads(run(*words, "--dry-run").stdout)
    assert (dry["images"], dry["stored"], dry["needed_bytes"], dry["cost_s"]) == (count, count, 0, 0)
    assert dry["saved_s"] == pytest.approx(count * dry["image_s"])
    loaded = load_backbone("digits-vit")
    before = loaded.network.feature_map
    loaded.network.feature_map = None  # nothing may be computed
    root, images = images_of(data)
    cache = cache_tokens(tmp_path, loaded, root, images)
    loaded.network.feature_map = before
    pixels = loaded.geometry.place(Image.open(root / images[5]))[0][None]
    with torch.no_grad():
        torch.testing.assert_close(cache[[images[5]]], loaded.network(pixels), rtol=1e-3, atol=1e-3)


def test_what_changed_on_disk_is_found_and_told(data: Path, tmp_path: Path):
    words = ("--backbone", "digits-vit", "--data", data, "--out", tmp_path)
    assert run(*words).exit_code == 0
    store = open_store(tmp_path, load_backbone("digits-vit"))
    file = store.folder / "tokens.f16"
    content = bytearray(file.read_bytes())
    content[0] ^= 64
    file.write_bytes(content)
    result = run(*words)
    assert result.exit_code == 2
    assert "recomputed visual tokens differ from the stored ones" in result.output


def test_unreadable_images_are_told_and_left_out(tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (30, 20), (200, 0, 0)).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no image")
    result = run("--backbone", "digits-vit", "--data", folder, "--out", tmp_path / "tokens")
    assert result.exit_code == 0, result.output
    assert "1 images of" in result.output
    assert "b.png: not a readable image" in result.output


def test_mistakes_are_one_line(data: Path, tmp_path: Path):
    for words, told in [
        (("--backbone", "digits-vti", "--data", data), "did you mean digits-vit"),
        (("--backbone", "digits-vit", "--data", tmp_path / "no"), "no such file or folder"),
        (("--backbone", "digits-vit", "--data", tmp_path), "contains and names no images"),
        (
            ("--backbone", "digits-vit", "--data", data, "--wiring", "controled"),
            "'controled' is not one of 'controlled', 'as-published'",
        ),
    ]:
        result = run(*words, "--out", tmp_path / "tokens")
        assert result.exit_code == 2
        assert told in result.output
        assert result.output.count("\n") == 1


def test_an_instruction_file_names_its_images_and_a_root_those_of_benchmarks_too(data: Path):
    instruction = data / "download" / "llava-v1.5-instruct" / "llava_v1_5_mix665k.json"
    root, images = images_of(instruction)
    assert len(images) == 12
    assert all((root / image).is_file() for image in images)
    root, more = images_of(data)
    assert len(more) > 12
    assert set(images) < {image.removeprefix("download/llava-v1.5-instruct/") for image in more}
    assert all((root / image).is_file() for image in more)


def test_studies_share_tokens_if_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("EYESWAP_TOKENS", raising=False)
    assert token_folder(tmp_path / "run" / "tokens") == tmp_path / "run" / "tokens"
    monkeypatch.setenv("EYESWAP_TOKENS", str(tmp_path / "shared"))
    assert token_folder(tmp_path / "run" / "tokens") == tmp_path / "shared"
