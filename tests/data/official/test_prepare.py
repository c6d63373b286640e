"""Official folders are read, checked and indexed as the published evaluation suite does it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from PIL import Image

from eyeswap.data.formats import POPE_SPLITS, full_set_box
from eyeswap.data.official.catalogue import TRAINING_SETS, sets_named
from eyeswap.data.official.families import FAMILIES
from eyeswap.data.official.prepare import inspect
from eyeswap.errors import DataError, MissingFileError, SpecError
from eyeswap.evaluation import BENCHMARKS, TEST_SPLITS, get_benchmark
from eyeswap.files import digest
from eyeswap.pickles import read_plain_pickle
from official_files import write_official_files

POPE_PINNED = Path(__file__).parents[2] / "fixtures" / "pope" / "e3e39262"

# Of the files that the published suite's own builders (commit d9f58967, their counts not asserted) wrote from the
# files of official_files.py with slim sizes 5 and 12; POPE and RefCOCO without their salted ids. What the study's copy
# of that suite adds (pixels, and the file made from rounded boxes) is left out.
WRITTEN_BY_THE_PUBLISHED_SUITE = {
    "vqa-v2": "10184aa685f11028",
    "gqa": "1b477a7f3a487142",
    "vizwiz": "5075db5e0aad6e59",
    "text-vqa": "58c48dd09489fc08",
    "pope": "3e9c21a447459e87",
    "tally-qa": "caa7ccf47070bc98",
    "refcoco": "626a4378b1c5e00b",
    "ocid-ref": "91947d510f6c5ec9",
}
each_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("official")
    return root, write_official_files(root)


def content_digest(path: Path) -> str:
    content = json.loads(path.read_text())
    if not path.name.startswith("metadata"):
        return digest(content)
    for entry in content.values():
        for added in ("bbox_xyxy", "image_width", "image_height"):
            entry.pop(added, None)
    if path.parent.name in ("pope", "refcoco"):
        salted = ("question_id", "example_id")
        return digest([[{k: v for k, v in entry.items() if k not in salted} for entry in content.values()]])
    return digest([list(content.items())])


@each_family
def test_the_index_is_that_of_the_published_suite(files, name):
    root, _ = files
    found = inspect(FAMILIES[name], root, slim_sizes=(5, 12))
    folder = root / "datasets" / name
    assert set(found.written.values()) == {"written"}
    assert found.written.keys() == {path.name for path in folder.iterdir()} - {"eyeswap.json"}
    sums = {file: content_digest(folder / file) for file in found.written if file != "metadata-full-v2.json"}
    assert digest(sums)[:16] == WRITTEN_BY_THE_PUBLISHED_SUITE[name]
    again = inspect(FAMILIES[name], root, slim_sizes=(5, 12))
    assert set(again.written.values()) == {"kept"}


@pytest.mark.parametrize("name", ["refcoco", "ocid-ref"])
def test_slim_sets_have_the_boxes_of_the_annotations_and_the_full_set_the_rounded_ones(files, name):
    root, examples = files
    inspect(FAMILIES[name], root, slim_sizes=(5,))
    folder = root / "datasets" / name
    read = {kind: json.loads((folder / f"metadata-{kind}.json").read_text()) for kind in ("full", "slim-5", "full-v2")}
    by_question = {(one.question, one.image): one for one in examples[name]}
    for kind, index in read.items():
        for entry in index.values():
            raw = by_question[entry["ref_expression"], entry["img_path"]]
            size = entry["image_width"], entry["image_height"]
            assert size == raw.size
            rounded = full_set_box(raw.truth, size)
            assert entry["bbox_xyxy"] == list(rounded if kind == "full-v2" else raw.box_px)
    assert list(read["full-v2"]) == list(read["full"])


@each_family
def test_full_and_slim_sets_are_those_of_the_index(files, name):
    root, _ = files
    family = FAMILIES[name]
    inspect(family, root, slim_sizes=(5,))
    metadata = json.loads((root / "datasets" / name / "metadata-slim-5.json").read_text())
    asked = [entry.get("question", entry.get("ref_expression")) for entry in metadata.values()]
    slim = [example for benchmark in family.benchmarks for example in get_benchmark(benchmark).slim(root, 5)]
    told = [example.question for example in slim]
    assert sorted(told) == sorted(asked if name != "text-vqa" else asked + [text.split("\n")[0] for text in asked])
    if len(family.benchmarks) == 1:
        assert told == asked


def test_an_index_of_the_published_suite_is_kept_and_a_foreign_one_is_named(tmp_path):
    write_official_files(tmp_path)
    family = FAMILIES["pope"]
    inspect(family, tmp_path, slim_sizes=(5,))
    path = tmp_path / "datasets" / "pope" / "metadata-full.json"
    salted = {str(hash(key)): entry for key, entry in json.loads(path.read_text()).items()}
    path.write_text(json.dumps(salted))
    assert inspect(family, tmp_path, slim_sizes=(5,)).written["metadata-full.json"] == "kept"
    path.write_text(json.dumps(dict(list(salted.items())[1:])))
    assert inspect(family, tmp_path, slim_sizes=(5,)).written["metadata-full.json"] == "kept, other questions"


@each_family
def test_nothing_on_disk_is_said_with_the_place_where_to_get_it(tmp_path, name):
    found = inspect(FAMILIES[name], tmp_path)
    assert found.complaints[0].startswith("not on disk: download/")
    assert all(file.source.url.startswith("http") for file in found.files)
    benchmark = FAMILIES[name].benchmarks[0]
    with pytest.raises(MissingFileError, match=f"no such file; `eyeswap data prepare {name} --root"):
        get_benchmark(benchmark).examples(tmp_path)


@each_family
def test_other_counts_than_published_and_missing_images_are_named(files, name):
    root, examples = files
    found = inspect(FAMILIES[name], root)
    assert sum(found.counts.values()) == len(examples[name])
    told = " | ".join(found.complaints)
    assert f"published {next(iter(found.published.values())):,}" in told
    assert "not on disk" not in told
    image = examples[name][7].image
    path = root / image
    path.rename(root / "away")
    try:
        found = inspect(FAMILIES[name], root)
        assert found.missing_images == [image]
        assert f"1 images are not on disk: {image}" in found.complaints
    finally:
        (root / "away").rename(path)


def test_images_that_are_broken_or_of_another_size_are_named(tmp_path):
    examples = write_official_files(tmp_path)["refcoco"]
    broken, other = examples[0].image, examples[-1].image
    (tmp_path / broken).write_bytes(b"no image")
    Image.new("RGB", (9, 9)).save(tmp_path / other)
    turned = next(example.image for example in examples if example.image not in (broken, other))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / turned, exif=exif)
    found = inspect(FAMILIES["refcoco"], tmp_path, open_images=True)
    assert set(found.bad_images) == {broken, other}
    assert found.bad_images[other] == "is 9x9, stated 8x6"
    assert "2 images are bad" in " | ".join(found.complaints)
    assert found.traits == {"turned": 1}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_column_is_read(files, name):
    root, examples = files
    benchmark = get_benchmark(name)
    found = benchmark.examples(root)
    own = [example for example in examples[benchmark.family] if benchmark.owns(example)]
    assert [example.question.split("\n")[0] for example in found] == [example.question for example in own]
    assert [example.truth for example in found] == [example.truth for example in own]


@pytest.mark.parametrize("name", TEST_SPLITS)
def test_a_further_split_is_read_if_the_files_carry_it(files, name):
    root, _ = files
    benchmark = get_benchmark(name)
    if name in ("refcoco-testA", "refcoco+-testB", "refcocog-test"):
        assert len(benchmark.examples(root)) == 10
        assert len(benchmark.slim(root, 4)) == 4
        assert inspect(FAMILIES["refcoco"], root).splits[name.replace("-", " ")] == 10
    elif name in ("ocid-ref-test", "refcocog-google"):
        with pytest.raises(MissingFileError, match=r"test_expressions.json|refs\(google\).p: no such file"):
            benchmark.examples(root)
    else:
        with pytest.raises(DataError, match=r"refs\(unc\).p: has no expression of split 'test[AB]', only val, test"):
            benchmark.examples(root)


def test_googles_division_of_refcocog_is_a_benchmark_beside_the_studys(tmp_path):
    write_official_files(tmp_path)
    folder = tmp_path / "download" / "refcoco" / "refcocog"
    refs = read_plain_pickle(folder / "refs(umd).p")
    (folder / "refs(google).p").write_bytes(pickle.dumps([ref for ref in refs if ref["split"] == "val"][:4], 2))
    found = get_benchmark("refcocog-google").examples(tmp_path)
    assert found == get_benchmark("refcocog").examples(tmp_path)[: len(found)]
    assert get_benchmark("refcocog-google").slim(tmp_path, 3)
    splits = inspect(FAMILIES["refcoco"], tmp_path).splits
    assert splits["refcocog google-val"] == len(found)
    assert splits["refcocog val"] == 60


def test_names_inside_the_archives_are_accepted_too(tmp_path):
    write_official_files(tmp_path)
    folder = tmp_path / "download"
    for old, new in {
        "vqa-v2/v2_val2014_questions.json": "vqa-v2/v2_OpenEnded_mscoco_val2014_questions.json",
        "vqa-v2/v2_val2014_annotations.json": "vqa-v2/v2_mscoco_val2014_annotations.json",
        "vqa-v2/images_val2014": "vqa-v2/val2014",
        "pope/val_images": "pope/val2014",
    }.items():
        (folder / old).rename(folder / new)
    for name in ("vqa-v2", "pope"):
        assert not inspect(FAMILIES[name], tmp_path).missing_images
    assert get_benchmark("vqav2").examples(tmp_path)[0].image.startswith("download/vqa-v2/val2014/")


def test_the_pinned_pope_is_recognised_and_complete_but_for_its_images(tmp_path):
    folder = tmp_path / "download" / "pope"
    (folder / "val_images").mkdir(parents=True)
    for split in POPE_SPLITS:
        file = POPE_PINNED / f"coco_pope_{split}.json"
        (folder / file.name).write_bytes(file.read_bytes())
    found = inspect(FAMILIES["pope"], tmp_path)
    assert {file.version for file in found.files if not file.source.is_images} == {"the study's version"}
    assert found.counts == {"adversarial": 3000, "popular": 3000, "random": 2910}
    assert found.published == found.counts
    assert [line.split(":")[0] for line in found.complaints] == ["500 images are not on disk"]
    (folder / "coco_pope_random.json").write_text("{}{}")
    assert "coco_pope_random.json: line 1 is not valid JSON" in inspect(FAMILIES["pope"], tmp_path).problem


def test_the_version_of_pope_with_nine_thousand_questions_is_complete_too(tmp_path):
    folder = tmp_path / "download" / "pope"
    (folder / "val_images").mkdir(parents=True)
    names = [f"COCO_val2014_{number:012d}.jpg" for number in range(500)]
    for name in names:
        (folder / "val_images" / name).touch()
    for split in POPE_SPLITS:
        rows = [
            {"question_id": number + 1, "image": names[number // 6], "text": "q?", "label": ("yes", "no")[number % 2]}
            for number in range(3000)
        ]
        (folder / f"coco_pope_{split}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = inspect(FAMILIES["pope"], tmp_path)
    assert found.complaints == []
    assert found.published == dict.fromkeys(POPE_SPLITS, 3000)


def test_names_of_families_and_benchmarks():
    assert [family.name for family in sets_named("refcoco+")] == ["refcoco"]
    assert len(sets_named("all")) == len(FAMILIES) + len(TRAINING_SETS) == 9
    with pytest.raises(SpecError, match="Did you mean vqav2"):
        sets_named("vqav")
    counts = {name: sum(dict(family.counts[0]).values()) for name, family in FAMILIES.items()}
    for name, family in FAMILIES.items():
        own = [BENCHMARKS[benchmark].num_published for benchmark in family.benchmarks]
        assert counts[name] == (sum(own) if name == "refcoco" else own[0])


@each_family
def test_the_page_names_files_and_counts_as_the_catalogue_does(name):
    page = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    family = FAMILIES[name]
    assert all(f"`{benchmark}`" in row for benchmark in family.benchmarks)
    assert all(f"{sum(dict(counts).values()):,}" in row for counts in family.counts)
    for source in family.sources:
        assert source.names[0].rpartition("/")[2] in row
