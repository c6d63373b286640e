"""`eyeswap backbones` and `eyeswap check` as a user meets them."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner, Result

from eyeswap.backbones import catalog
from eyeswap.cli.main import app
from eyeswap.files import write_safetensors

GOOD = """
from torch import nn
from eyeswap.backbones.base import VisionBackbone
from eyeswap.geometry import ImageGeometry

class Patches(VisionBackbone):
    embed_dim = 8
    def __init__(self):
        super().__init__()
        self.project = nn.Conv2d(3, 8, 8, 8)
    def feature_map(self, pixel_values):
        return self.project(pixel_values).permute(0, 2, 3, 1)
    def token_grid(self, height, width):
        return height // 8, width // 8

class Random(Patches):
    def feature_map(self, pixel_values):
        return nn.functional.dropout(super().feature_map(pixel_values))

def build():
    return Patches(), ImageGeometry(canvas=(64, 64))

def bad():
    return Random(), ImageGeometry(canvas=(64, 64))
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("eyeswap.backbones.measure.BUDGET_S", 0.0)
    monkeypatch.setenv("EYESWAP_CACHE", str(tmp_path / "cache"))


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> io.StringIO:
    """Make commands print to a terminal of this width, and return what they print."""
    shown = io.StringIO()
    console = Console(file=shown, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr("eyeswap.console.open_console", lambda: console)
    return shown


# ---- list


@pytest.mark.parametrize("width", [80, 120, 136, 160])
def test_the_list_fits_the_terminal_and_shows_what_it_must(monkeypatch, width):
    shown = terminal(monkeypatch, width)
    assert invoke("backbones", "list").exit_code == 0
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    rows = {line.split()[0]: line for line in lines if line and line.split()[0] in catalog.entries()}
    assert list(rows) == catalog.names()  # each on one line
    words = rows["vmamba-tiny-s1l8"].split()
    assert words[:5] == ["vmamba-tiny-s1l8", "196", "384", "14.4M", "82.6"]
    assert words[-1] == "MIT"
    assert ("3,-1" in words) == ("letterbox" in words) == (width >= 136)
    assert rows["mambavision-t"].endswith("CC-BY-NC-SA-4.0*")
    text = " ".join(" ".join(lines).split())
    assert "* for non-commercial use only" in text
    assert all(name in text for name in catalog.left_out())


def test_the_list_is_narrowed_by_name_family_and_objective():
    found = json.loads(invoke("backbones", "list", "tiny", "--family", "vmamba", "--json").stdout)
    assert {one["family"] for one in found} == {"vmamba"}
    assert all("tiny" in one["name"] for one in found)
    assert len(found) == 13
    detectors = json.loads(invoke("backbones", "list", "--objective", "detection", "--json").stdout)
    assert {one["family"] for one in detectors} == {"vmamba", "vitdet", "spatial-mamba"}
    assert [one["name"] for one in json.loads(invoke("backbones", "list", "det-maskrcnn-1x-bs8", "--json").stdout)] == [
        "vmamba-base-s2l15-maskrcnn-1x-bs8"
    ]


def test_the_json_of_an_entry_has_all_a_machine_needs():
    (one,) = json.loads(invoke("backbones", "list", "vmamba-small-s2l15-maskrcnn-1x", "--json").stdout)
    assert one["num_tokens"] == 4200
    assert one["size"] == {"parameters": catalog.entry(one["name"]).num_parameters, "tokens": [50, 84], "width": 384}
    assert one["quality"] == {"metric": "COCO box AP", "value": 48.7, "source": "VMamba README"}
    assert one["weights"]["address"].endswith("%23v2det/mask_rcnn_vssm_fpn_coco_small_epoch_11.pth")
    assert one["weights"]["commercial_use"] is True
    assert one["as_published"]["geometry"] == {"enlarge": False}
    assert json.loads(invoke("backbones", "show", one["name"], "--json").stdout) == one


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "nonsense"], 'no backbone has "nonsense" in its name'),
        (["list", "deit-t"], "left out: vit-adapter-upernet-deit-t-ade20k-512: the authors' download"),
        (["list", "--family", "vmanba"], "--family vmanba: no such family. Did you mean vmamba?"),
        (["list", "--objective", "detect"], "'detect' is not one of 'classification', 'detection'"),
        (["show", "vmamba-tny"], "did you mean"),
        (["show", "vit-adapter-upernet-deit-t-ade20k-512"], "download link is dead"),
    ],
)
def test_a_mistake_is_one_line(arguments, words):
    result = invoke("backbones", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_list_is_quick():
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "eyeswap.cli", "backbones", "list"], check=True, capture_output=True)
    assert time.perf_counter() - start < 15  # about 2 s on an idle machine


# ---- show


def test_show_tells_where_weights_are_and_what_they_may_be_used_for(monkeypatch, tmp_path):
    shown = terminal(monkeypatch, 80)
    assert invoke("backbones", "show", "mambavision-t-s3").exit_code == 0
    text = shown.getvalue()
    url = "https://huggingface.co/nvidia/MambaVision-T-1K/resolve/main/mambavision_tiny_1k.pth.tar"
    assert url in text  # whole, on one line
    assert str(tmp_path / "cache" / "weights" / "nvidia" / "MambaVision-T-1K" / "mambavision_tiny_1k.pth.tar") in text
    flat = " ".join(text.split())
    for words in (
        "14x14 = 196 visual tokens of width 320",
        "11,186,528 up to the tap, which is 2,before",
        "82.3 IN1K top-1 (MambaVision README)",
        "CC-BY-NC-SA-4.0: for non-commercial use only",
        "tap 1,after; the frozen network follows train()",
        "not on this machine; would be stored at",
    ):
        assert words in flat, words


@pytest.mark.parametrize("name", catalog.names()[::9])
def test_show_works_for_every_family(name):
    result = invoke("backbones", "show", name)
    assert result.exit_code == 0
    assert result.stdout.startswith(name)


# ---- backbones check


def test_check_of_the_packaged_weights_passes():
    result = invoke("backbones", "check", "digits-vit")
    assert result.exit_code == 0
    assert [line.split()[:2] for line in result.stdout.splitlines()[1:-1]] == [
        ["ok", check] for check in ("file", "sha256", "licence", "keys", "tokens", "repeat")
    ]
    assert re.search(r"[0-9a-f]{64}", result.stdout)
    assert result.stdout.endswith("all checks passed\n")


def test_check_of_a_file_that_gives_no_finite_tokens_fails(tmp_path):
    state = {
        key: torch.full_like(value, 1e38) for key, value in catalog.entry("digits-vit").build().state_dict().items()
    }
    write_safetensors(tmp_path / "huge.safetensors", state)
    result = invoke("backbones", "check", "digits-vit", "--weights", tmp_path / "huge.safetensors", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["ok"] is False
    assert {one["check"]: one["status"] for one in told["findings"]}["tokens"] == "failed"


def test_check_without_the_file_and_without_a_network_says_where_both_are(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://no-such-host.invalid")
    result = invoke("backbones", "check", "in1k-vit-s")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert (
        "http://no-such-host.invalid/timm/vit_small_patch16_224.augreg_in1k/resolve/main/model.safeten" in result.stderr
    )
    assert f"put it at {tmp_path / 'cache' / 'weights' / 'timm'}" in result.stderr


def test_a_hostile_pickle_is_refused_and_nothing_runs(tmp_path):
    mark = tmp_path / "it-ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {mark}",)

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Evil()}))
    result = invoke("backbones", "check", "vitdet-b", "--weights", tmp_path / "evil.pkl")
    assert result.exit_code == 2
    assert re.search(r"error: vitdet-b-maskrcnn: .*evil\.pkl: refused, not a pickle of arrays: .*system", result.stderr)
    assert result.stderr.count("\n") == 1
    assert not mark.exists()


# ---- check


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    path = tmp_path / "my_encoder.py"
    path.write_text(GOOD, encoding="utf-8")
    return path


def test_check_says_one_line_a_promise_and_exits_with_0(encoder):
    result = invoke("check", encoder)
    assert result.exit_code == 0, result.output
    checks = ["tokens", "grid", "repeat", "raster", "frozen", "batch", "pixels", "bf16", "speed", "memory"]
    assert [line.split()[:2] for line in result.stdout.splitlines()[1:-1]] == [["ok", check] for check in checks]


def test_check_of_a_broken_encoder_exits_with_1_and_says_what_to_do(encoder, monkeypatch):
    shown = terminal(monkeypatch, 80)
    result = invoke("check", f"{encoder}:bad")
    assert result.exit_code == 1
    text = " ".join(shown.getvalue().split())
    assert "failed repeat two passes over the same images differ" in text
    assert "look for dropout" in text
    assert {"repeat", "frozen", "batch"} <= set(text.rpartition("failed: ")[2].split(", "))
    assert max(len(line.rstrip()) for line in shown.getvalue().splitlines()[1:]) <= 80


def test_check_gives_json(encoder):
    told = json.loads(invoke("check", f"{encoder}:bad", "--json").stdout)
    assert told["ok"] is False
    assert told["encoder"] == f"{encoder}:bad"
    assert set(told["findings"][0]) == {"check", "status", "found", "remedy"}


def test_check_with_fresh_weights_downloads_nothing(monkeypatch):
    monkeypatch.setattr("eyeswap.backbones.weights.fetch", lambda *_: pytest.fail("went to the network"))
    small = catalog.entry("digits-vit").model_copy(update={"weights": catalog.entry("in1k-vit-s").weights})
    monkeypatch.setitem(catalog.entries(), "digits-vit", small)
    assert invoke("check", "digits-vit", "--fresh").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.py"], "absent.py: no such file"),
        (["digits-vit", "--device", "nowhere"], "--device nowhere: torch cannot use this device"),
        (["digits-vit", "--weights", "absent.pth"], "absent.pth: no such weights file"),
        (["no-such-name"], "no backbone 'no-such-name' in the catalog"),
    ],
)
def test_a_mistake_in_what_is_checked_is_one_line(arguments, words):
    result = invoke("check", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
