"""What each official format means, on real files where there are some, and what is refused."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import pytest

from eyeswap.data.formats import (
    POPE_SPLITS,
    clutter_level,
    normalise_box,
    read_gqa,
    read_ocid,
    read_pope,
    read_refer,
    read_tallyqa,
    read_textvqa,
    read_vizwiz,
    read_vqa,
)
from eyeswap.errors import DataError

FIXTURES = Path(__file__).parents[1] / "fixtures"
TEXTVQA_LINES = FIXTURES / "textvqa" / "llava_textvqa_val_v051_ocr.first60.jsonl"


def write(path, value):
    path.write_text(json.dumps(value))
    return path


def test_the_pinned_pope_has_2910_random_questions_with_their_typo():
    examples = read_pope(FIXTURES / "pope" / "e3e39262", "images")
    assert Counter(example.subset for example in examples) == {
        "adversarial": 3000,
        "popular": 3000,
        "random": 2910,
    }
    labels = Counter(example.truth for example in examples if example.subset == "random")
    assert labels == {"yes": 1500, "no": 1410}
    assert sum("imange" in example.question for example in examples) == 58 + 44 + 144
    assert len({example.example_id for example in examples}) == 8910
    assert len({example.image_id for example in examples}) == 500
    assert [example.example_id for example in examples[:2]] == ["adversarial/1", "adversarial/2"]
    assert examples[0].image == "images/COCO_val2014_000000310196.jpg"


def test_the_current_pope_is_read_too(tmp_path):
    for split in POPE_SPLITS:
        source = FIXTURES / "pope" / "main" / f"coco_pope_{split}.first60.json"
        (tmp_path / f"coco_pope_{split}.json").write_bytes(source.read_bytes())
    examples = read_pope(tmp_path, "images")
    assert len(examples) == 180
    assert not any("imange" in example.question for example in examples)


def test_a_pope_id_that_occurs_twice_is_refused(tmp_path):
    row = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "yes"}
    (tmp_path / "coco_pope_random.json").write_text(json.dumps(row) + "\n\n" + json.dumps(row))
    with pytest.raises(DataError, match=r"coco_pope_random.json: example 2: id 'random/1' occurs twice"):
        read_pope(tmp_path, "images", ["random"])


def test_a_pope_label_other_than_yes_and_no_is_refused(tmp_path):
    row = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "Yes"}
    (tmp_path / "coco_pope_random.json").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"row 1: label must be yes or no, found 'Yes'"):
        read_pope(tmp_path, "images", ["random"])


def textvqa_annotations(tmp_path):
    lines = [json.loads(line) for line in TEXTVQA_LINES.read_text().splitlines()]
    rows = [
        {
            "question_id": 34602 + n,
            "question": "lower case",
            "image_id": line["question_id"],
            "answers": ["x"] * 10,
        }
        for n, line in enumerate(lines)
    ]
    return write(tmp_path / "TextVQA_0.5.1_val.json", {"data": rows}), rows


def test_textvqa_takes_the_question_of_the_ocr_file_by_position(tmp_path):
    annotations, rows = textvqa_annotations(tmp_path)
    pure = read_textvqa(annotations, TEXTVQA_LINES, "images")
    ocr = read_textvqa(annotations, TEXTVQA_LINES, "images", with_ocr=True)
    assert pure[0].question == "What is the brand of this camera?"
    tokens = "DAKOTA, DIGITAL, Single-Use, Camera, Pire, digitat"
    assert ocr[0].question == f"What is the brand of this camera?\nReference OCR token: {tokens}"
    assert pure[0].details["ocr"] == tokens
    assert [example.example_id for example in pure] == [str(row["question_id"]) for row in rows]
    assert not any("single word or phrase" in example.question for example in ocr)
    assert read_textvqa(annotations, None, "images")[0].question == "lower case"


def test_textvqa_files_out_of_step_are_refused(tmp_path):
    annotations, _ = textvqa_annotations(tmp_path)
    lines = TEXTVQA_LINES.read_text().splitlines()
    shuffled = tmp_path / "ocr.jsonl"
    shuffled.write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(DataError, match=r"row 1: is about image b9dc400eb20bad64, but .* 003a8ae2ef43b901"):
        read_textvqa(annotations, shuffled, "images")
    shuffled.write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match="59 questions, but the annotations have 60"):
        read_textvqa(annotations, shuffled, "images")
    with pytest.raises(DataError, match="needs the question file"):
        read_textvqa(annotations, None, "images", with_ocr=True)


def test_vqa_follows_the_order_of_the_annotations(tmp_path):
    questions = [{"question_id": n, "image_id": 42, "question": f"q{n}"} for n in (1, 3)]
    answers = [{"answer": "yes", "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)]
    annotations = [
        {
            "question_id": n,
            "image_id": 42,
            "answer_type": "yes/no",
            "question_type": "is the",
            "answers": answers,
        }
        for n in (3, 1)
    ]
    q = write(tmp_path / "q.json", {"questions": questions})
    a = write(tmp_path / "a.json", {"annotations": annotations})
    examples = read_vqa(q, a, "images")
    assert [(example.example_id, example.question) for example in examples] == [("3", "q3"), ("1", "q1")]
    assert examples[0].image == "images/COCO_val2014_000000000042.jpg"
    assert examples[0].truth == ("yes",) * 10
    write(q, {"questions": questions[:1]})
    with pytest.raises(DataError, match=r"a.json: row 1: question 3 is not in the questions file"):
        read_vqa(q, a, "images")
    write(q, {"questions": [*questions, {"question_id": 2, "image_id": 42, "question": "q2"}]})
    with pytest.raises(DataError, match=r"q.json: row 3: question 2 has no annotation in a.json"):
        read_vqa(q, a, "images")


def test_gqa_and_vizwiz_and_tallyqa_read_their_own_field_names(tmp_path):
    gqa = {
        "201307251": {
            "question": "Is it red?",
            "answer": "yes",
            "fullAnswer": "Yes.",
            "imageId": "n191",
            "types": {"structural": "verify", "semantic": "attr", "detailed": "verifyAttr"},
            "semantic": [{"operation": "select", "argument": "dog (1)", "dependencies": []}],
            "groups": {"global": None, "local": "x"},
        }
    }
    (example,) = read_gqa(write(tmp_path / "g.json", gqa), "images")
    assert (example.example_id, example.image, example.truth, example.kind) == (
        "201307251", "images/n191.jpg", "yes", "verify"
    )  # fmt: skip
    answers = [{"answer": "unanswerable"}] * 10
    vizwiz = [{"image": "VizWiz_val_00000000.jpg", "question": "What?", "answers": answers,
               "answer_type": "unanswerable", "answerable": 0}]  # fmt: skip
    (example,) = read_vizwiz(write(tmp_path / "v.json", vizwiz), "images")
    assert (example.example_id, example.subset, example.details["answerable"]) == ("0", "unanswerable", 0)
    tally = [{"question_id": 30093226, "question": "How many?", "image": "VG_100K_2/1.jpg", "image_id": 1,
              "answer": 3, "issimple": False, "data_source": "amt"}]  # fmt: skip
    (example,) = read_tallyqa(write(tmp_path / "t.json", tally), "download/tally-qa")
    assert (example.image, example.subset, example.truth) == (
        "download/tally-qa/VG_100K_2/1.jpg",
        "complex",
        3,
    )


REF = {
    "ref_id": 7, "ann_id": 5, "category_id": 1, "image_id": 581857, "split": "val", "sent_ids": [1, 2],
    "file_name": "COCO_train2014_000000581857_5.jpg",
    "sentences": [
        {"raw": "THE LADY", "sent": "the lady", "sent_id": 1, "tokens": ["the", "lady"]},
        {"raw": "woman", "sent": "woman", "sent_id": 2, "tokens": ["woman"]},
    ],
}  # fmt: skip


def refer(tmp_path, bbox, **changes):
    instances = {
        "images": [{"id": 581857, "width": 640, "height": 427, "file_name": "x"}],
        "annotations": [{"id": 5, "image_id": 581857, "category_id": 1, "bbox": bbox}],
        "categories": [{"id": 1, "name": "person"}],
    }
    refs = tmp_path / "refs(unc).p"
    refs.write_bytes(pickle.dumps([REF | changes, REF | {"ref_id": 8, "split": "train"}], protocol=0))
    return read_refer(refs, write(tmp_path / "instances.json", instances), "images", "refcoco")


def test_refer_gives_one_example_a_sentence_of_its_split(tmp_path):
    examples = refer(tmp_path, [64.0, 42.7, 320.0, 213.5])
    assert [example.example_id for example in examples] == ["refcoco/7/1", "refcoco/7/2"]
    assert examples[0].question == "the lady"
    assert examples[0].image == "images/COCO_train2014_000000581857.jpg"
    assert examples[0].truth == (0.1, 0.1, 0.6, 0.6)
    assert examples[0].box_px == (64.0, 42.7, 384.0, 256.2)


@pytest.mark.parametrize("bbox", [[600, 0, 41, 10], [0, 0, 0, 10], [-1, 0, 10, 10], [0, 0, 10], ["0", 0, 1, 1]])
def test_a_refer_box_outside_its_image_or_malformed_is_refused(tmp_path, bbox):
    with pytest.raises(DataError, match=r"instances.json: annotation 1: "):
        refer(tmp_path, bbox)


def test_a_ref_without_annotation_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"row 1: annotation 6 or image 581857 is not in instances.json"):
        refer(tmp_path, [0, 0, 10, 10], ann_id=6)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([Evil()]))
    instances = write(tmp_path / "instances.json", {"images": [], "annotations": [], "categories": []})
    with pytest.raises(DataError, match="refused, not a pickle of plain data"):
        read_refer(path, instances, "images", "refcoco")


def ocid(tmp_path, **changes):
    row = {"scene_path": "ARID20/table/x.png", "take_id": 10, "sentence": "the mug",
           "bbox": "[64, 48, 320, 240]",
           "class": "mug", "sub_dataset": "ARID20", "sentence_type": "a"}  # fmt: skip
    return read_ocid(write(tmp_path / "val_expressions.json", {"17": row | changes}), "images")


def test_an_ocid_box_is_a_json_text_of_corners(tmp_path):
    (example,) = ocid(tmp_path)
    assert example.truth == (0.1, 0.1, 0.5, 0.5)
    assert (example.example_id, example.subset, example.size) == ("17", "medium", (640, 480))


@pytest.mark.parametrize(
    "changes",
    [{"bbox": "[0, 0, 641, 10]"}, {"bbox": "[0, 0"}, {"bbox": [0, 0, 1, 1]}, {"take_id": 21}, {"bbox": "[]"}],
)
def test_an_impossible_ocid_row_is_refused(tmp_path, changes):
    with pytest.raises(DataError, match=r"val_expressions.json: sentence 17: "):
        ocid(tmp_path, **changes)


def test_clutter_grows_with_the_take():
    assert [clutter_level(take) for take in (0, 9, 10, 16, 17, 20)] == [
        "minimum", "minimum", "medium", "medium", "maximum", "maximum"
    ]  # fmt: skip


@pytest.mark.parametrize("image", ["../secret.jpg", "/etc/passwd", "a/../../b.jpg", "", "a\\b.jpg"])
def test_an_image_name_that_leaves_its_folder_is_refused(tmp_path, image):
    row = {
        "question_id": 1,
        "question": "How many?",
        "image": image,
        "image_id": 1,
        "answer": 1,
        "issimple": True,
    }
    with pytest.raises(DataError, match=r"t.json: row 1: image name .* must stay inside images"):
        read_tallyqa(write(tmp_path / "t.json", [row]), "images")


def test_a_box_may_touch_the_edge_and_may_round_to_nothing():
    assert normalise_box((0, 0, 100, 50), (100, 50)) == (0, 0, 1, 1)
    assert normalise_box((50.1, 0, 50.2, 50), (100, 50)) == (0.5, 0, 0.5, 1)
