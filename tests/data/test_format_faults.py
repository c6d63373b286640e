"""Whatever is wrong with an official file is told in one line that names the file and the place in it."""

from __future__ import annotations

import copy
import json
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eyeswap.data.official.families import FAMILIES
from eyeswap.errors import DataError, EyeswapError
from official_files import write_official_files

FILES = {
    "vqa-v2": ["v2_val2014_questions.json", "v2_val2014_annotations.json"],
    "gqa": ["testdev_balanced_questions.json"],
    "vizwiz": ["val.json"],
    "text-vqa": ["TextVQA_0.5.1_val.json", "textvqa_val_v051_ocr.jsonl"],
    "pope": ["coco_pope_adversarial.json", "coco_pope_popular.json", "coco_pope_random.json"],
    "tally-qa": ["test.json"],
    "refcoco": ["refcoco/refs(unc).p", "refcoco/instances.json", "refcocog/refs(umd).p"],
    "ocid-ref": ["val_expressions.json"],
}
EVERY_FILE = [(family, name) for family, names in FILES.items() for name in names]
each_file = pytest.mark.parametrize(("family", "name"), EVERY_FILE, ids=[name for _, name in EVERY_FILE])


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("official")
    write_official_files(root)
    return root


class Tampered:
    """One file of a family, changed for the length of a ``with`` block."""

    def __init__(self, root: Path, family: str, name: str) -> None:
        self.root, self.family = root, family
        self.path = root / "download" / family / name
        self.is_lines = name.endswith(".jsonl") or "pope" in name
        self.whole = self.path.read_bytes()

    def __enter__(self) -> Tampered:
        return self

    def __exit__(self, *error: object) -> None:
        self.path.write_bytes(self.whole)

    def content(self):
        if self.path.suffix == ".p":
            return pickle.loads(self.whole)
        text = self.whole.decode()
        return [json.loads(line) for line in text.splitlines()] if self.is_lines else json.loads(text)

    def write(self, content) -> None:
        if self.path.suffix == ".p":
            self.path.write_bytes(pickle.dumps(content, protocol=2))
        elif self.is_lines:
            self.path.write_text("\n".join(map(json.dumps, content)))
        else:
            self.path.write_text(json.dumps(content))

    def complaint(self) -> str:
        """Return the one line that reading gives, empty if the files are accepted; anything else is a failure."""
        told = ""
        try:
            FAMILIES[self.family].read_files(self.root, "eval")
        except DataError as error:
            told = str(error)
        assert "\n" not in told
        return told


def rows_of(content):
    """The list of rows of a file, and how they are keyed."""
    if isinstance(content, dict):
        for key in ("annotations", "questions", "data"):
            if isinstance(content.get(key), list):
                return content[key]
        return content
    return content


@each_file
def test_a_file_cut_anywhere_is_refused_by_name(pristine, family, name):
    with Tampered(pristine, family, name) as file:
        for share in (0, 0.3, 0.7, 0.99):
            cut = round(share * len(file.whole))
            if file.is_lines:  # a cut between two lines is a file with fewer lines
                cut = file.whole.rfind(b"\n", 0, max(cut, 40)) - 3
            file.path.write_bytes(file.whole[:cut])
            assert file.path.name in file.complaint()


@each_file
def test_bytes_that_are_no_text_and_another_format_are_refused_by_name(pristine, family, name):
    with Tampered(pristine, family, name) as file:
        for content in (b"\xff\xfe\x00", b"[1, 2, 3]", b'"text"', b"null", b"<html>not found</html>"):
            file.path.write_bytes(content)
            assert file.path.name in file.complaint()


@each_file
def test_an_id_that_occurs_twice_is_refused_with_its_place(pristine, family, name):
    with Tampered(pristine, family, name) as file:
        content = file.content()
        rows = rows_of(content)
        if isinstance(rows, dict):  # ids are keys: JSON itself must not repeat one
            key, row = next(iter(rows.items()))
            text = json.dumps(content)
            file.path.write_text(text[:-1] + f', "{key}": {json.dumps(row)}' + "}")
            assert re.search(rf"{re.escape(file.path.name)}: .*key '{key}' stands twice", file.complaint())
        elif family == "vizwiz":
            pytest.skip("VizWiz rows have no ids")
        else:
            rows.append(copy.deepcopy(rows[0]))
            file.write(content)
            complaint = file.complaint()
            in_step = "questions, but the annotations have" in complaint  # TextVQA's two files are joined by position
            assert in_step or ("occurs twice" in complaint and file.path.name in complaint)


@each_file
def test_a_field_that_is_missing_or_of_another_type_is_named_with_its_row(pristine, family, name):
    with Tampered(pristine, family, name) as file:
        content = file.content()
        rows = rows_of(content)
        key = list(rows)[4] if isinstance(rows, dict) else 4
        place = f"(question|sentence) {key}" if isinstance(rows, dict) else r"(row|annotation|image) 5"
        told = 0
        for field in list(rows[key]):
            for junk in (None, [], {}, 1.5, True):
                changed = copy.deepcopy(content)
                rows_of(changed)[key][field] = junk
                file.write(changed)
                complaint = file.complaint()
                if complaint:
                    told += 1
                    assert re.search(rf"{re.escape(file.path.name)}: {place}", complaint), (field, junk, complaint)
        assert told >= 5  # at least one field is needed and typed


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
@each_file
def test_numbers_that_are_none_are_refused(pristine, family, name, literal):
    if name.endswith(".p"):
        pytest.skip("a pickle is not JSON")
    with Tampered(pristine, family, name) as file:
        text = file.whole.decode()
        file.path.write_text(text.replace("{", f'{{"extra": {literal}, ', 1))
        assert f"{literal} is not a JSON number" in file.complaint()
        assert file.path.name in file.complaint()


JUNK = st.sampled_from(
    [
        None,
        -1,
        0,
        1.5,
        True,
        "",
        "x",
        "\ud800",
        [],
        {},
        [[]],
        float("nan"),
        10**30,
        "../../x",
        "/etc/passwd",
        [1, 2, 3, 4],
    ]
)


def spots(value, path=()):
    """All places inside a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from spots(inner, (*path, key))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_junk_at_any_place_is_named_or_harmless(pristine, data):
    family, name = data.draw(st.sampled_from(EVERY_FILE))
    with Tampered(pristine, family, name) as file:
        content = file.content()
        # Early rows only: the others are like them.
        way = data.draw(st.sampled_from([spot for spot in spots(_shortened(content)) if spot]))
        inner = content
        for key in way[:-1]:
            inner = inner[key]
        inner[way[-1]] = data.draw(JUNK)
        file.write(content)
        complaint = file.complaint()
        assert not complaint or "download" in complaint
        if complaint:
            assert re.search(
                r": (row|question|sentence|annotation|image|category|example|line) \w+|: field|: expected"
                r"|not valid JSON|questions, but the annotations have|has no expression",
                complaint,
            ), complaint


def _shortened(content):
    if isinstance(content, dict) and any(isinstance(value, list) for value in content.values()):
        return {key: value[:3] if isinstance(value, list) else value for key, value in content.items()}
    return dict(list(content.items())[:3]) if isinstance(content, dict) else content[:3]


class Evil:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_hostile_pickle_inside_the_official_folder_is_refused_and_does_nothing(pristine, tmp_path):
    with Tampered(pristine, "refcoco", "refcoco/refs(unc).p") as file:
        content = file.content()
        content[3]["sentences"] = Evil(tmp_path / "trace")
        file.write(content)
        complaint = file.complaint()
        assert "refs(unc).p: refused, not a pickle of plain data: the pickle asks for" in complaint
        assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("family", "name", "change", "told"),
    [
        (
            "refcoco",
            "refcoco/instances.json",
            {"bbox": [0, 0, 9, 1]},
            r"instances.json: annotation 1: box .* is empty or",
        ),
        (
            "refcoco",
            "refcoco/instances.json",
            {"bbox": [-0.5, 0, 2, 1]},
            r"instances.json: annotation 1: box .* begins",
        ),
        (
            "refcoco",
            "refcoco/instances.json",
            {"bbox": [0, 0, 0, 1]},
            r"instances.json: annotation 1: box .* is empty or",
        ),
        (
            "refcoco",
            "refcoco/instances.json",
            {"image_id": 3},
            r"refs\(unc\).p: row 1: image 1, but annotation 1 is of",
        ),
        ("ocid-ref", "val_expressions.json", {"bbox": "[0, 0, 641, 2]"}, r"sentence 3: box .* is empty or outside"),
        (
            "ocid-ref",
            "val_expressions.json",
            {"bbox": "[0, 0, NaN, 2]"},
            r"sentence 3: field 'bbox' must be a JSON text",
        ),
        ("ocid-ref", "val_expressions.json", {"take_id": 21}, r"sentence 3: field 'take_id' must be 0..20, found 21"),
        ("tally-qa", "test.json", {"answer": -1}, r"test.json: row 1: field 'answer' must not be negative"),
        ("text-vqa", "TextVQA_0.5.1_val.json", {"answers": ["a"] * 9}, r"row 1: field 'answers' must be a list of ten"),
        ("vqa-v2", "v2_val2014_annotations.json", {"answers": []}, r"row 1: field 'answers' is empty"),
        (
            "vqa-v2",
            "v2_val2014_annotations.json",
            {"image_id": 9},
            r"row 1: image 9, but question 500 is about another",
        ),
        (
            "vqa-v2",
            "v2_val2014_annotations.json",
            {"question_id": 9},
            r"row 1: question 9 is not in the questions file",
        ),
        (
            "vizwiz",
            "val.json",
            {"answerable": 2},
            r"val.json: row 1: field 'answerable' must be true or false, found 2",
        ),
        (
            "pope",
            "coco_pope_popular.json",
            {"label": "maybe"},
            r"coco_pope_popular.json: row 1: label must be yes or no",
        ),
        (
            "gqa",
            "testdev_balanced_questions.json",
            {"imageId": "../x"},
            r"question 900: image name .* must stay inside",
        ),
    ],
)
def test_a_row_that_cannot_be_is_named(pristine, family, name, change, told):
    with Tampered(pristine, family, name) as file:
        content = file.content()
        rows = rows_of(content)
        rows[next(iter(rows)) if isinstance(rows, dict) else 0].update(change)
        file.write(content)
        assert re.search(told, file.complaint()), file.complaint()


def test_files_that_lack_a_partner_are_refused(pristine):
    with Tampered(pristine, "vqa-v2", "v2_val2014_annotations.json") as file:
        content = file.content()
        content["annotations"].pop(7)
        file.write(content)
        assert (
            "v2_val2014_questions.json: row 8: question 507 has no annotation in v2_val2014_annot" in file.complaint()
        )
    assert issubclass(DataError, EyeswapError)
