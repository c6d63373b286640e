from __future__ import annotations

from importlib import resources

import pytest
import yaml
from pydantic import ValidationError

from eyeswap.backbones import catalog
from eyeswap.backbones.catalog import BackboneEntry
from eyeswap.backbones.state import LAYOUTS
from eyeswap.errors import SpecError

MINIATURES = ("digits-vit", "digits-maxvit", "digits-vmamba", "digits-mambavision")


def test_every_file_and_every_entry_is_valid():
    entries = catalog.entries()
    assert {entry.family for entry in entries.values()} == set(catalog.FAMILIES)
    for name, entry in entries.items():
        assert entry.name == name
        assert entry.weights.layout in LAYOUTS, name
        places = (entry.weights.packaged or None, entry.weights.hub, entry.weights.url, entry.weights.page)
        assert sum(place is not None for place in places) == 1, name
        assert (entry.top1 is None) == (entry.top1_source is None), name
        assert entry.wired("as-published").as_published == {}, name


def test_names_are_unique_over_all_files():
    names = []
    for family in catalog.FAMILIES:
        text = (resources.files("eyeswap.backbones") / "catalog" / f"{family}.yaml").read_text()
        names += [name for name in yaml.safe_load(text) if not name.startswith("_")]
    assert sorted(names) == sorted(catalog.names())


def test_a_catalog_entry_survives_its_own_dump():
    for entry in catalog.entries().values():
        assert BackboneEntry.model_validate(entry.model_dump(mode="json")) == entry


def test_entries_refuse_unknown_fields():
    with pytest.raises(ValidationError, match="resolution"):
        BackboneEntry.model_validate({**catalog.entry("digits-vit").model_dump(), "resolution": 3})


def test_an_unknown_name_gets_the_nearest_in_one_line():
    with pytest.raises(SpecError, match="did you mean vmamba-tiny-s1l8") as caught:
        catalog.entry("vmamba-tiny-s1l9")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("name", "wiring", "tap"),
    [
        ("mambavision-t-s3", "controlled", (2, "before")),
        ("mambavision-t-s3", "as-published", (1, "after")),
        ("vit-adapter-upernet-deit-b-ade20k-512", "controlled", 3),
        ("vit-adapter-upernet-deit-b-ade20k-512", "as-published", 4),
        ("vmamba-small-s2l15", "as-published", (3, -1)),
    ],
)
def test_wirings_differ_where_the_published_study_did(name, wiring, tap):
    assert catalog.entry(name).wired(wiring).tap == tap


def test_published_wiring_restores_norm_drop_path_crop_colours_and_small_images():
    published = {name: catalog.entry(name).wired("as-published") for name in catalog.names()}
    assert published["vmamba-tiny-s1l8"].architecture["norm"] == "plain"
    assert catalog.entry("vmamba-tiny-s1l8").architecture["norm"] == "none"
    assert published["vmamba-tiny-s1l8"].architecture["drop_path_rate"] == 0.1
    assert published["vitdet-h-maskrcnn"].architecture["drop_path_rate"] == 0.5
    assert published["in21k-vit-b"].geometry.shorter_side == 248
    assert published["in1k-384px-maxvit-t-s3"].geometry.mean == (0.485, 0.456, 0.406)
    assert catalog.entry("in1k-384px-maxvit-t-s3").geometry.mean == (0.5, 0.5, 0.5)
    assert not published["vmamba-tiny-s1l8-maskrcnn-1x"].geometry.enlarge
    assert catalog.entry("vmamba-tiny-s1l8-maskrcnn-1x").geometry.enlarge


def test_changes_of_tap_and_geometry():
    entry = catalog.entry("digits-mambavision").with_changes(tap="1,after", geometry="squash-64")
    assert entry.tap == (1, "after")
    assert entry.geometry.strategy == "squash"
    assert catalog.entry("digits-vmamba").with_changes(tap="2,-1").build().embed_dim == 64
    assert catalog.entry("digits-vmamba").with_changes(tap="3,-1,plain").build().norm == "plain"
    assert catalog.entry("digits-vit").with_changes(tap="0").tap == 0


@pytest.mark.parametrize(
    ("name", "tap"),
    [
        ("digits-vit", "9"),
        ("digits-vit", "1,2"),
        ("digits-vmamba", "3"),
        ("digits-vmamba", "3,-1,best"),
        ("digits-maxvit", "x"),
    ],
)
def test_a_tap_the_network_lacks_is_refused_in_one_line(name, tap):
    with pytest.raises(SpecError, match="tap") as caught:
        catalog.entry(name).with_changes(tap=tap)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("in1k-vit-s", 19.890432),  # 21.665664 of the whole less one block (1.774464) and the final norm
        ("vmamba-tiny-s1l8-maskrcnn-1x", 14.375040),
        ("mambavision-t", 31.153248),
        ("mambavision-b", 96.660288),
        ("vitdet-b-maskrcnn", 85.889024),
    ],
)
def test_parameters_are_those_of_the_network_and_of_the_record(name, millions):
    entry = catalog.entry(name)
    assert entry.num_parameters == entry.model_copy(update={"size": None}).num_parameters == round(millions * 1e6)


def test_a_record_of_size_holds_for_its_own_entry_alone():
    entry = catalog.entry("mambavision-t-s3")
    assert entry.measured() == entry.size
    assert entry.wired("as-published").measured().parameters < entry.size.parameters
    assert entry.with_changes(geometry="letterbox-448").measured().tokens == (28, 28)
    assert entry.with_changes(tap="3,norm").measured() == catalog.entry("mambavision-t").size
    raw = {"_base": {"size": 1, "aliases": ["x"], "tap": 2}, "own": {"base": "_base"}}
    assert catalog._resolve(raw, "own") == {"tap": 2}


def test_miniatures_are_matched_in_size_tokens_and_sight():
    entries = [catalog.entry(name) for name in MINIATURES]
    assert len({entry.geometry for entry in entries}) == 1
    for entry in entries:
        assert 0.9e6 < entry.num_parameters < 1.4e6, entry.name
        assert entry.build().token_grid(*entry.geometry.canvas) == (8, 8), entry.name
        assert entry.weights.packaged
        assert entry.weights.packaged_path().name == f"{entry.name}.safetensors"


def test_the_sizes_of_the_miniatures_are_matched_between_families():
    for size, least, most, width in (("tiny", 0.6e6, 0.7e6, 96), ("base", 2.3e6, 2.5e6, 192)):
        for name in MINIATURES:
            entry = catalog.entry(f"{name}-{size}")
            assert least < entry.num_parameters < most, entry.name
            assert entry.size == entry.model_copy(update={"size": None}).measured(), entry.name
            assert (entry.size.tokens, entry.size.width) == ((8, 8), width), entry.name
            assert entry.weights.file == f"{entry.name}.safetensors"
