"""Every variant of the published study is in the catalog, or left out with a reason."""

from __future__ import annotations

import re

import pytest

from eyeswap.backbones import catalog
from eyeswap.errors import SpecError

VIT = [
    *("in1k-vit-s", "in1k-vit-b"),
    *(f"in1kft-vit-{size}" for size in ("t", "s", "b", "b2", "l")),
    *(f"in21k-vit-{size}" for size in "tsbl"),
]
MAXVIT = [
    *(f"in1k-{pixels}px-maxvit-{size}" for pixels in (224, 384, 512) for size in "tsbl"),
    *(f"in21k-224px-maxvit-{size}" for size in ("b", "l", "xl")),
    *(f"in21kft-{pixels}px-maxvit-{size}" for pixels in (384, 512) for size in ("b", "l", "xl")),
]
MAMBAVISION = [
    f"mambavision-{size}"
    for size in ("t", "t2", "s", "b", "b-21k", "l", "l-21k", "l2", "l2-512-21k", "l3-256-21k", "l3-512-21k")
]
VMAMBA_CLASSIFIERS = [
    *("tiny-s1l8", "small-s2l15", "base-s2l15", "tiny-s2l5", "small-s1l20", "base-s1l20"),
    *("tiny-vanilla", "small-vanilla", "base-vanilla"),
]
VMAMBA_DETECTORS = [
    *("tiny-vanilla-det-maskrcnn-1x", "small-vanilla-det-maskrcnn-1x", "base-vanilla-det-maskrcnn-1x"),
    *("tiny-vanilla-det-maskrcnn-3x", "small-vanilla-det-maskrcnn-3x"),
    *("tiny-s2l5-det-maskrcnn-1x", "tiny-s2l5-det-maskrcnn-3x"),
    *("tiny-s1l8-det-maskrcnn-1x", "tiny-s1l8-det-maskrcnn-3x"),
    *("small-s2l15-det-maskrcnn-1x", "small-s2l15-det-maskrcnn-3x"),
    *("base-s2l15-det-maskrcnn-1x", "base-s2l15-det-maskrcnn-1x-bs8"),
]
VMAMBA_SEGMENTORS = [
    *("tiny-vanilla-seg-ade20k", "small-vanilla-seg-ade20k", "base-vanilla-seg-ade20k"),
    *("tiny-s2l5-seg-ade20k", "tiny-s1l8-seg-ade20k", "small-s2l15-seg-ade20k", "base-s2l15-seg-ade20k"),
]
VMAMBA = [f"vmamba-{name}" for name in (*VMAMBA_CLASSIFIERS, *VMAMBA_DETECTORS, *VMAMBA_SEGMENTORS)]
VITDET = [f"vitdet-{size}-maskrcnn" for size in "blh"]
ADAPTER = [
    *(f"vit-adapter-upernet-{vit}-ade20k-512" for vit in ("deit-s", "deit-b", "augreg-t", "augreg-b", "augreg-l")),
    "vit-adapter-upernet-uniperceiver-l-ade20k-512",
    "vit-adapter-upernet-beit-l-ade20k-640",
    "vit-adapter-mask2former-beit-l-ade20k-640",
    "vit-adapter-mask2former-beit-l-coco-ade20k-896",
    "vit-adapter-mask2former-beitv2-l-coco-ade20k-896",
]
VIM = [f"vim-{size}" for size in ("tiny", "tiny-ft", "small", "small-ft", "base")]
SPATIAL_MAMBA = [  # cited by the published study, not part of it
    *(f"spatial-mamba-{size}" for size in ("tiny", "small", "base")),
    *(f"spatial-mamba-{size}-maskrcnn-1x" for size in ("tiny", "small", "base")),
    *(f"spatial-mamba-{size}-maskrcnn-3x" for size in ("tiny", "small")),
    *(f"spatial-mamba-{size}-ade20k" for size in ("tiny", "small", "base")),
]
LEFT_OUT = ["vit-adapter-upernet-deit-t-ade20k-512"]
WITH_LAST_STAGE_TWIN = [*MAXVIT, *MAMBAVISION]
PUBLISHED = [
    *(*VIT, *WITH_LAST_STAGE_TWIN, *(f"{name}-s3" for name in WITH_LAST_STAGE_TWIN)),
    *(*VMAMBA, *VITDET, *ADAPTER, *VIM),
]
SHORT = {
    "vmamba-tiny": "vmamba-tiny-s1l8",
    "vmamba-small": "vmamba-small-s2l15",
    "vmamba-base": "vmamba-base-s2l15",
    "vitdet-b": "vitdet-b-maskrcnn",
    "vitdet-l": "vitdet-l-maskrcnn",
    "vitdet-h": "vitdet-h-maskrcnn",
    "mambavision-tiny": "mambavision-t",
    "mambavision-small": "mambavision-s",
    "mambavision-base": "mambavision-b",
    "mambavision-large": "mambavision-l",
    "mambavision-tiny-s3": "mambavision-t-s3",
}
TOP1 = {  # a few of each family, as its authors or timm report them
    "in1k-vit-s": 78.84,
    "in1kft-vit-b2": 85.11,
    "in1k-224px-maxvit-l-s3": 84.94,
    "in21kft-512px-maxvit-xl": 88.54,
    "mambavision-l2": 85.3,
    "vmamba-tiny-s1l8": 82.6,
    "vmamba-small-s2l15": 83.6,
    "vmamba-base-s2l15": 83.9,
    "vmamba-base-vanilla": 83.7,
    "vim-small-ft": 81.6,
    "spatial-mamba-base": 85.3,
}
DENSE = {
    "vmamba-tiny-s1l8-maskrcnn-1x": ("COCO box AP", 47.3),
    "vmamba-base-s2l15-maskrcnn-1x": ("COCO box AP", 49.2),
    "vmamba-small-s2l15-ade20k": ("ADE20K mIoU", 50.6),
    "vitdet-b-maskrcnn": ("COCO box AP", 51.6),
    "vit-adapter-upernet-deit-b-ade20k-512": ("ADE20K mIoU", 48.8),
    "vit-adapter-mask2former-beitv2-l-coco-ade20k-896": ("ADE20K mIoU", 61.2),
    "spatial-mamba-tiny-maskrcnn-3x": ("COCO box AP", 49.3),
}


def test_every_published_variant_is_an_entry_and_there_are_no_others():
    found = [catalog.entry(name).name for name in PUBLISHED]
    assert len(set(found)) == len(found) == 122
    miniatures = [name for name in catalog.names() if name.startswith("digits-")]
    assert sorted(found + miniatures + SPATIAL_MAMBA) == sorted(catalog.names())


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_was_left_out_says_why(name):
    assert name not in catalog.names()
    with pytest.raises(SpecError, match=f"{name} is not in the catalog: .+") as caught:
        catalog.entry(name)
    assert "\n" not in str(caught.value)


def test_nothing_else_was_left_out():
    assert sorted(catalog.left_out()) == sorted(LEFT_OUT)


@pytest.mark.parametrize(("short", "name"), SHORT.items())
def test_short_names_of_the_published_code_lead_to_the_entry(short, name):
    assert catalog.entry(short) is catalog.entry(name)


def test_no_alias_is_a_name_or_another_ones_alias():
    aliases = [alias for entry in catalog.entries().values() for alias in entry.aliases]
    assert len(set(aliases)) == len(aliases)
    assert not set(aliases) & set(catalog.names())


def test_published_accuracy_is_on_record():
    assert {name: catalog.entry(name).top1 for name in TOP1} == TOP1
    found = {name: catalog.entry(name).quality for name in DENSE}
    assert {name: (quality.metric, quality.value) for name, quality in found.items()} == DENSE
    for entry in catalog.entries().values():
        if entry.objective != "classification":
            assert entry.quality is not None, entry.name
        elif "IN1K" in entry.pretraining:
            assert entry.top1 is not None, entry.name


def test_licences_that_forbid_commercial_use_are_marked():
    for entry in catalog.entries().values():
        assert entry.weights.commercial_use == (not re.search(r"\bNC\b", entry.licence)), entry.name
    forbidden = {entry.family for entry in catalog.entries().values() if not entry.weights.commercial_use}
    assert forbidden == {"mambavision", "vim"}  # Vim's page says both


def test_a_questionable_wiring_is_explained():
    for entry in catalog.entries().values():
        if set(entry.as_published) - {"architecture"} or "norm" in entry.as_published.get("architecture", {}):
            assert "as published" in entry.notes or "the released code" in entry.notes, entry.name


def test_two_files_never_share_a_place_in_a_folder_of_weights():
    sources = {entry.weights for entry in catalog.entries().values()}
    assert len({source.place for source in sources}) == len(sources)
