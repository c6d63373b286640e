"""Released checkpoints: imported, answered with, exported without loss; whatever is wrong with one is one line."""

from __future__ import annotations

import functools
import json
import shutil
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image
from released_checkpoint import write_official
from tiny_llms import llama
from typer.testing import CliRunner, Result

from eyeswap.api import ask
from eyeswap.backbones.base import encode
from eyeswap.backbones.weights import load_backbone
from eyeswap.cli.main import app
from eyeswap.errors import CheckpointError, EyeswapError, SpecError
from eyeswap.files import sha256_of
from eyeswap.vlm import VisionLanguageModel
from eyeswap.vlm.prompt import VICUNA_SYSTEM
from eyeswap.vlm.released import catalog as catalog_module
from eyeswap.vlm.released.catalog import REPOSITORY, fetch_archive, released_model, released_models, unpack_archive
from eyeswap.vlm.released.convert import export_released, import_released

WEIGHTS = Path("checkpoints", "latest-checkpoint.pt")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that stands for lmsys/vicuna-7b-v1.5: full embedding, pads with <unk>, no chat template."""
    torch.manual_seed(0)
    model, tokenizer = llama()
    tokenizer.chat_template = None
    folder = tmp_path_factory.mktemp("vicuna")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def official(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_official(tmp_path_factory.mktemp("official") / "run", base)


@pytest.fixture
def copy(official: Path, tmp_path: Path) -> Path:
    shutil.copytree(official, tmp_path / "run")
    return tmp_path / "run"


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def load(folder: Path):
    return torch.load(folder / WEIGHTS, weights_only=True)["model"]


@pytest.mark.parametrize("arch", ["linear", "no-align+gelu-mlp", "no-align+fused-gelu-mlp"])
def test_there_and_back_changes_nothing(base: Path, tmp_path: Path, arch: str):
    folder = write_official(tmp_path / "run", base, arch=arch)
    import_released(folder, tmp_path / "ours", str(base))
    export_released(tmp_path / "ours", tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    before, after = load(folder), load(tmp_path / "again")
    assert list(before) == list(after)
    for part in before:
        assert list(before[part]) == list(after[part])
        for key, tensor in before[part].items():
            assert tensor.dtype == after[part][key].dtype
            assert tensor.equal(after[part][key])


def test_large_checkpoints_are_written_in_shards(official: Path, base: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("eyeswap.vlm.released.convert._SHARD_BYTES", 20_000)
    seen = []
    import_released(official, tmp_path / "ours", str(base), advance=lambda done, total: seen.append((done, total)))
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) == len(seen) > 2
    assert seen[-1][0] == seen[-1][1]
    state = VisionLanguageModel.load(tmp_path / "ours").state_dict()
    expected = load(official)
    assert state["connector.2.bias"].equal(expected["projector"]["projector.2.bias"])
    assert state["llm.lm_head.weight"].equal(expected["llm_backbone"]["llm.lm_head.weight"])
    export_released(tmp_path / "ours", tmp_path / "again")
    assert load(tmp_path / "again")["llm_backbone"].keys() == expected["llm_backbone"].keys()


def test_an_import_is_the_published_wiring_in_the_published_frame(base: Path, tmp_path: Path):
    folder = write_official(
        tmp_path / "run", base, "digits-vmamba", vmamba_feature_stage=3, vmamba_feature_layer=4
    )  # fmt: skip
    import_released(folder, tmp_path / "ours", str(base))
    model = VisionLanguageModel.load(tmp_path / "ours")
    assert (model.config.wiring, model.config.tap) == ("as-published", "3,4")
    assert model.config.text_config.vocab_size == 320
    assert (model.tokenizer.pad_token, model.tokenizer.model_max_length) == ("<PAD>", 2048)
    assert model.prompt.question("Hi") == f"{VICUNA_SYSTEM} USER: Hi ASSISTANT:"
    assert not model.backbone.network.training  # answers come from the network as it was saved
    image = Image.new("RGB", (60, 40), (200, 30, 30))
    pixels = model.processor(images=image, text="x")["pixel_values"]
    expected = load_backbone("digits-vmamba", wiring="as-published")
    assert model.encode(pixels).equal(encode(expected.network.eval(), pixels))


def test_an_imported_checkpoint_answers(official: Path, base: Path, tmp_path: Path):
    import_released(official, tmp_path / "ours", str(base))
    image = tmp_path / "image.png"
    Image.new("RGB", (60, 40), (200, 30, 30)).save(image)
    model = VisionLanguageModel.load(tmp_path / "ours")
    prompt = model.prompt.question("What?\nAnswer.")
    inputs = model.processor(images=image, text=prompt)
    produced = model.generate(**inputs, max_new_tokens=6)[:, inputs["input_ids"].shape[1] :]
    expected = model.processor.batch_decode(produced, skip_special_tokens=True)[0].strip()
    assert ask(tmp_path / "ours", image, "What?\nAnswer.", max_new_tokens=6).text == expected
    with pytest.raises(EyeswapError, match="first `eyeswap models import"):
        ask(official, image, "What?")


def test_the_commands_take_archives_and_folders(official: Path, base: Path, tmp_path: Path):
    archive = tmp_path / "small.tar"
    with tarfile.open(archive, "w") as content:
        content.add(official, arcname="some-run")  # one folder around it, as the published contract allows
    done = run("models", "import", archive, tmp_path / "a", "--llm", base)
    assert done.exit_code == 0, done.output
    assert "backbone digits-vit, connector gelu-mlp, wiring as-published" in done.output
    assert run("models", "import", official, tmp_path / "b", "--llm", base).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"small.tar", "a", "b"}
    assert run("models", "export", tmp_path / "a", tmp_path / "c").exit_code == 0
    assert load(tmp_path / "c")["projector"].keys() == load(official)["projector"].keys()
    wrong = run("models", "import", archive, tmp_path / "d", "--llm", base, "--sha256", "0" * 64)
    assert wrong.exit_code == 2
    assert wrong.output.startswith(f"error: {archive}: has sha256 ")
    assert "expected 000000000000" in wrong.output
    assert not (tmp_path / "d").exists()


def test_an_archive_named_like_a_released_one_must_be_it(official: Path, tmp_path: Path):
    archive = tmp_path / "vit-s-in1k-224.tar"
    with tarfile.open(archive, "w") as content:
        content.add(official, arcname=".")
    wrong = run("models", "import", archive, tmp_path / "a")
    assert wrong.exit_code == 2
    assert "expected 9359fc2e2bcd" in wrong.output


def test_an_archive_that_would_write_elsewhere_is_refused(official: Path, tmp_path: Path):
    archive = tmp_path / "evil.tar"
    (tmp_path / "secret").write_text("x")
    with tarfile.open(archive, "w") as content:
        content.add(tmp_path / "secret", arcname="../escaped")
        content.add(tmp_path / "secret", arcname="/absolute")
        content.add(official, arcname=".")
    with pytest.raises(CheckpointError, match=r"evil\.tar: refused, entry '\.\./escaped' leaves its folder"):
        unpack_archive(archive, tmp_path / "in" / "folder")
    assert not (tmp_path / "in").exists()


def test_truncated_or_foreign_archives_are_one_line(official: Path, tmp_path: Path):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as content:
        content.add(official / "config.json", arcname="config.json")
    with pytest.raises(CheckpointError, match=r"contains no checkpoints/latest-checkpoint\.pt"):
        unpack_archive(archive, tmp_path / "x")
    with tarfile.open(archive, "w") as content:
        content.add(official, arcname=".")
    archive.write_bytes(archive.read_bytes()[:60_000])
    with pytest.raises(CheckpointError, match="not a complete archive"):
        unpack_archive(archive, tmp_path / "y")
    archive.write_bytes(b"no archive at all")
    with pytest.raises(CheckpointError, match="not a complete archive"):
        unpack_archive(archive, tmp_path / "z")


class _Evil:
    def __reduce__(self):
        return (eval, ("__import__('os').remove('bait')",))


def spoil(folder: Path, kind: str) -> None:
    weights, config = folder / WEIGHTS, json.loads((folder / "config.json").read_text())
    content = torch.load(weights, weights_only=True)
    model = content["model"]
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:50_000])
        return
    if kind == "no weights":
        weights.unlink()
        return
    if kind == "no config":
        (folder / "config.json").unlink()
        return
    if kind == "hostile":
        content["model"]["projector"]["x"] = _Evil()
    elif kind == "no model":
        content = model
    elif kind == "no projector":
        del model["projector"]
    elif kind == "missing key":
        del model["llm_backbone"]["llm.model.norm.weight"]
    elif kind == "unexpected key":
        model["projector"]["projector.7.weight"] = torch.zeros(2)
    elif kind == "shape":
        model["projector"]["projector.0.weight"] = torch.zeros(2, 2)
    elif kind == "not finite":
        model["projector"]["projector.0.bias"][0] = float("nan")
    elif kind == "no tensor":
        model["projector"]["projector.0.bias"] = "text"
    elif kind == "vision":
        model["vision_backbone"] = {}
    elif kind == "no field":
        del config["model"]["vision_backbone_id"]
    elif kind == "unknown backbone":
        config["model"]["vision_backbone_id"] = "digits-vti"
    elif kind == "unknown connector":
        config["model"]["arch_specifier"] = "no-align+linear"
    elif kind == "unknown strategy":
        config["model"]["image_resize_strategy"] = "resize-naive"
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(content, weights)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("truncated", r"latest-checkpoint\.pt: refused, .* damaged or of another kind"),
        ("no weights", r"latest-checkpoint\.pt: no such weights file"),
        ("no config", r"run: no config\.json"),
        ("hostile", r"latest-checkpoint\.pt: refused, .* it asks for eval"),
        ("no model", "no key 'model' at the top"),
        ("no projector", "model has no key 'projector'; it has llm_backbone"),
        ("missing key", r"missing tensor llm\.model\.norm\.weight"),
        ("unexpected key", r"unexpected tensor connector\.7\.weight"),
        ("shape", r"connector\.0\.weight has shape \(2, 2\), expected \(32, 128\)"),
        ("not finite", r"connector\.0\.bias has values that are not finite"),
        ("no tensor", r"projector\.0\.bias is not a tensor"),
        ("vision", "only checkpoints with a frozen backbone"),
        ("no field", r"config\.json: model\.vision_backbone_id: field required"),
        ("unknown backbone", "did you mean digits-vit"),
        ("unknown connector", "'no-align\\+linear' is not a published connector"),
        ("unknown strategy", "image strategy 'resize-naive' is unknown"),
    ],
)
def test_whatever_is_wrong_is_one_line_and_nothing_is_left(
    copy: Path, base: Path, tmp_path: Path, kind: str, told: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bait").touch()
    spoil(copy, kind)
    with pytest.raises(EyeswapError, match=told) as caught:
        import_released(copy, tmp_path / "ours", str(base))
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "bait"}


def test_nothing_is_overwritten(official: Path, base: Path, tmp_path: Path):
    import_released(official, tmp_path / "ours", str(base))
    with pytest.raises(CheckpointError, match="already exists"):
        import_released(official, tmp_path / "ours", str(base))
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        export_released(tmp_path / "ours", official)
    (tmp_path / "ours" / "released.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no released\.json"):
        export_released(tmp_path / "ours", tmp_path / "again")


def test_the_eight_released_ids_are_in_the_catalog():
    from eyeswap.backbones import catalog

    models = released_models()
    assert len(models) == 8
    assert all(len(model.sha256) == 64 for model in models.values())
    for model in models.values():
        weight = 44_830 / 333_580  # published averages weigh by number of questions
        assert model.scores.overall == pytest.approx(
            (1 - weight) * model.scores.vqa + weight * model.scores.localization, abs=0.015
        )
        entry = catalog.entry(model.backbone).wired("as-published")
        assert entry.geometry.canvas[0] >= 224
    listed = json.loads(run("models", "list", "--json").output)
    assert [one["id"] for one in listed] == list(models)
    assert "vit-s-in1k-224" in run("models", "list").output
    assert json.loads(run("models", "show", "vit-s-in1k-224", "--json").output)["archive"] == "vit-s-in1k-224.tar"
    with pytest.raises(SpecError, match="Did you mean vit-s-in1k-224"):
        released_model("vit-s-in1k")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The folder of the released repository on a Hub of this machine."""
    served = tmp_path / "hub" / REPOSITORY / "resolve" / "main"
    served.mkdir(parents=True)
    monkeypatch.setenv("EYESWAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *words: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path / "hub")) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield served
        server.shutdown()


def test_a_released_id_is_fetched_checked_and_unpacked(
    hub: Path, official: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with tarfile.open(hub / "vit-s-in1k-224.tar", "w") as content:
        content.add(official, arcname="vit-s-in1k-224")
    wrong = run("models", "fetch", "vit-s-in1k-224", "--out", tmp_path / "out")
    assert wrong.exit_code == 2
    assert "sha256 of the download differs" in wrong.output
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "cache").rglob("*.tar*"))
    model = released_model("vit-s-in1k-224").model_copy(update={"sha256": sha256_of(hub / "vit-s-in1k-224.tar")})
    monkeypatch.setattr(catalog_module, "released_models", lambda: {model.id: model})
    done = run("models", "fetch", "vit-s-in1k-224", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert load(tmp_path / "out" / "vit-s-in1k-224").keys() == load(official).keys()
    (hub / "vit-s-in1k-224.tar").unlink()  # from now on the copy on this machine serves
    assert run("models", "import", "vit-s-in1k-224", tmp_path / "ours", "--llm", base).exit_code == 0
    export_released(tmp_path / "ours", tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (official / "config.json").read_bytes()


def test_without_the_hub_one_line_says_where_to_put_the_archive(hub: Path):
    with pytest.raises(CheckpointError, match=r"answers 404 .*; or get the file by other means .*224\.tar"):
        fetch_archive(released_model("vit-s-in1k-224"))


def test_an_archive_that_claims_more_than_it_holds_is_refused_before_it_is_unpacked(tmp_path: Path):
    bomb = tarfile.TarInfo("config.json")
    bomb.size = 10**13
    archive = tmp_path / "bomb.tar"
    archive.write_bytes(bomb.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(EyeswapError, match=r"bomb\.tar: not a complete archive"):
        unpack_archive(archive, tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_a_path_that_is_not_there_is_not_taken_for_an_id(tmp_path: Path):
    wrong = run("models", "import", tmp_path / "nothing.tar", tmp_path / "ours")
    assert wrong.exit_code == 2
    assert "no such folder or archive" in wrong.output
