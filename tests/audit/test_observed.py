"""How images truly met their canvas, measured from their sizes, and which norm stands at a tap."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from eyeswap.audit.observed import canvas_of, canvas_use, parameters_run, tap_norm
from eyeswap.backbones import catalog
from eyeswap.backbones.weights import load_backbone
from eyeswap.geometry import ImageGeometry

DETECTION = ImageGeometry(strategy="corner-letterbox", canvas=(800, 1333), interpolation="bilinear")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, size in {"coco.png": (640, 480), "tall.png": (300, 600)}.items():
        Image.new("RGB", size).save(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_a_coco_image_fills_29_percent_of_a_detection_canvas_that_never_enlarges(images: Path) -> None:
    published = DETECTION.override("corner-letterbox-800x1333-no-enlarge")
    use = canvas_use(published, DETECTION, images, ["coco.png", "coco.png", "broken.png", "gone.png"])
    assert use is not None
    assert (use.num_images, use.num_measured) == (3, 1)
    assert use.padding == pytest.approx(1 - 307_200 / 1_066_400, abs=1e-4)
    assert (use.scale, use.own_scale, use.cut) == (1.0, pytest.approx(1.6667, abs=1e-3), 0)
    enlarged = canvas_use(DETECTION, DETECTION, images, ["coco.png"])
    assert enlarged is not None
    assert enlarged.padding == pytest.approx(1 - 1067 * 800 / 1_066_400, abs=1e-4)
    assert enlarged.scale == enlarged.own_scale


@pytest.mark.parametrize(
    ("geometry", "padding", "cut", "stretch"),
    [
        ("letterbox-224", 0.25, 0, 1),
        ("squash-224", 0, 0, 640 / 480),
        ("resize-crop-224-from-256", 0, 1 - 224 * 224 / (256 * 341), 1),
        ("letterbox-224-from-248", 0, None, 1),
        ("keep-ratio-800x1333", 1 - 1067 * 800 / (1088 * 800), 0, 1),
    ],
)
def test_every_strategy_says_what_it_pads_cuts_and_stretches(
    images: Path, geometry: str, padding: float, cut: float | None, stretch: float
) -> None:
    use = canvas_use(DETECTION.override(geometry), None, images, ["coco.png"])
    assert use is not None
    if cut is None:  # the bars above and below are cut first; 11 of 248 on each side of the image's width
        assert use.cut == pytest.approx(1 - 224 / 248, abs=0.01)
    else:
        assert use.padding == pytest.approx(padding, abs=2e-3)
        assert use.cut == pytest.approx(cut, abs=2e-3)
    assert use.stretch == pytest.approx(stretch, abs=5e-3)
    assert use.own_scale is None


def test_data_sets_are_measured_each_for_itself(images: Path) -> None:
    own = catalog.entry("vmamba-small-s2l15-maskrcnn-1x").geometry
    sets = {"training": ["coco.png"], "refcoco": ["tall.png"], "nothing": ["gone.png"]}
    found = canvas_of(own, "vmamba-small-s2l15-maskrcnn-1x", images, sets)
    assert list(found) == ["training", "refcoco"]
    assert found["refcoco"].scale == found["refcoco"].own_scale == pytest.approx(800 / 600, abs=1e-3)
    assert canvas_of(own, "mine.py:build", images, sets)["training"].own_scale is None


@pytest.mark.parametrize(
    ("name", "tap", "norm"),
    [("digits-vit", None, "none"), ("digits-mambavision", None, "none"), ("digits-maxvit", None, "none"),
     ("digits-vmamba", None, "none"), ("digits-vmamba", "3,-1,plain", "untrained")],
)  # fmt: skip
def test_the_norm_at_the_tap_is_known(name: str, tap: str | None, norm: str) -> None:
    loaded = load_backbone(name, tap=tap)
    assert tap_norm(loaded) == norm
    assert parameters_run(loaded) == loaded.network.num_parameters


def test_of_an_encoder_of_ones_own_no_norm_is_known_and_a_strange_one_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom eyeswap.backbones.base import VisionBackbone\n"
        "class Mine(VisionBackbone):\n"
        "    embed_dim = 3\n"
        "    def token_grid(self, height, width): return 1, 1\n"
        "    def feature_map(self, pixels):\n"
        "        pixels.sum().item()  # what tensors without numbers cannot\n"
        "        return pixels.mean((2, 3))[:, None, None]\n"
        "def build(): return Mine()\n",
        encoding="utf-8",
    )
    loaded = load_backbone(f"{tmp_path / 'mine.py'}:build")
    assert tap_norm(loaded) is None
    assert parameters_run(loaded) is None
