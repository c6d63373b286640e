"""A study file is judged by its keys: every mistake is one line with file, field and the nearest choice."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from eyeswap.errors import SpecError
from eyeswap.planning.spec import Arm, DigitsData, FolderData, Recipe, Study, load_recipe, load_study
from eyeswap.recipe import Align, Blocks

GOOD = """\
question: Which one sees better?
recipe:
  data: digits
  llm: digits-llm
arms:
  vit: digits-vit
  vmamba: {backbone: digits-vmamba}
benchmarks: [pope, refcoco]
"""

RECIPE = "  llm: digits-llm\n"
VIT = "  vit: digits-vit\n"
VMAMBA = "  vmamba: {backbone: digits-vmamba}\n"
BENCHMARKS = "benchmarks: [pope, refcoco]\n"


def write(folder: Path, text: str, name: str = "my-study.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def message(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        load_study(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ") or text == f"{path}: no such file"
    return text


def test_a_good_file_gives_a_study(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, GOOD))
    assert study.name == "my-study"
    assert study.arms == {"vit": Arm(backbone="digits-vit"), "vmamba": Arm(backbone="digits-vmamba")}
    assert study.seeds == (7,)
    assert study.may_differ == ("backbone",)
    assert study.recipe.data == DigitsData()
    assert study.connector_of("vit") == "gelu-mlp"
    assert study.wiring_of("vit") == "controlled"


def test_a_study_rebuilds_itself_from_its_dump(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, GOOD))
    assert Study.model_validate(study.model_dump(mode="json")) == study


def test_defaults_are_the_published_fine_tuning_recipe() -> None:
    recipe = Recipe(data=DigitsData(), llm="digits-llm")
    published = (1, 128, 2e-5, 0.1, 0.03, "cosine", 1.0, "bf16", 2048)
    assert published == (
        *(recipe.num_epochs, recipe.global_batch, recipe.lr, recipe.weight_decay, recipe.warmup_fraction),
        *(recipe.schedule, recipe.clip_norm, recipe.precision, recipe.max_text_tokens),
    )


def test_a_path_as_data_means_a_folder(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, GOOD.replace("data: digits", "data: /data/vlm")))
    assert study.recipe.data == FolderData(folder="/data/vlm")


def test_an_exponent_without_a_point_is_a_number(tmp_path: Path) -> None:
    assert load_study(write(tmp_path, GOOD.replace(RECIPE, RECIPE + "  lr: 1e-3\n"))).recipe.lr == 1e-3


def test_the_recipe_digest_ignores_key_order_and_sees_every_value() -> None:
    recipe = Recipe(data=DigitsData(), llm="digits-llm")
    again = Recipe.model_validate(dict(reversed(recipe.model_dump().items())))
    assert again.digest == recipe.digest
    changes = {
        "data": DigitsData(turns=3),
        "llm": "other",
        "connector": "linear",
        "wiring": "as-published",
        "prompt": "plain",
        "num_epochs": 2,
        "max_steps": 9,
        "global_batch": 64,
        "micro_batch": 32,
        "lr": 1e-3,
        "weight_decay": 0.0,
        "warmup_fraction": 0.1,
        "clip_norm": 2.0,
        "loss": "micro-batch-mean",
        "order": "shuffled",
        "lora_rank": 8,
        "precision": "fp32",
        "max_text_tokens": 9,
        "published_gpus": 4,
        "train_box_frame": "canvas",
        "test_box_frame": "study",
        "trainable": "connector",
        "stages": "align-then-tune",
        "align": Align(share=0.5),
        "blocks": Blocks(last=2),
    }
    assert set(changes) | {"schedule"} == set(Recipe.model_fields)
    digests = {recipe.model_copy(update={key: value}).digest for key, value in changes.items()}
    assert len(digests | {recipe.digest}) == len(changes) + 1


@given(st.floats(min_value=1e-9, max_value=10.0), st.integers(1, 10_000))
def test_a_recipe_survives_json_with_its_digest(lr: float, batch: int) -> None:
    recipe = Recipe(data=DigitsData(), llm="digits-llm", lr=lr, global_batch=batch)
    assert Recipe.model_validate_json(recipe.model_dump_json()).digest == recipe.digest


def test_a_recipe_of_earlier_versions_keeps_its_meaning() -> None:
    original = Recipe.model_validate({"data": "digits", "box_frame": "original"})
    assert original == Recipe(data=DigitsData())
    assert (original.train_box_frame, original.test_box_frame, original.trained_box_frame) == (
        "verbatim",
        "original",
        "original",
    )
    for data in ("some/folder", {"folder": "some/folder"}):
        canvas = Recipe.model_validate({"data": data, "box_frame": "canvas"})
        assert canvas.data == FolderData(folder="some/folder", box_frame="original")
        assert (canvas.train_box_frame, canvas.test_box_frame) == ("canvas", "canvas")
    both = {"data": "digits", "box_frame": "canvas", "test_box_frame": "study"}
    with pytest.raises(ValidationError, match="replaced by train_box_frame and test_box_frame"):
        Recipe.model_validate(both)
    with pytest.raises(ValidationError, match='box_frame: unknown value "study"'):
        Recipe.model_validate({"data": "digits", "box_frame": "study"})


def test_boxes_can_be_moved_only_from_a_frame_that_is_known() -> None:
    with pytest.raises(ValidationError, match=r"also set data\.box_frame, the frame of the boxes in the file"):
        Recipe(data=FolderData(folder="x"), train_box_frame="canvas")
    assert Recipe(data=FolderData(folder="x")).trained_box_frame is None
    mix = FolderData(folder="x", box_frame="padded-square")
    assert Recipe(data=mix).trained_box_frame == "padded-square"
    assert Recipe(data=mix, train_box_frame="original").trained_box_frame == "original"


def test_a_recipe_cannot_be_changed() -> None:
    recipe = Recipe(data=DigitsData(), llm="digits-llm")
    with pytest.raises(ValidationError):
        recipe.lr = 1.0


def test_a_declared_factor_may_be_set_on_an_arm(tmp_path: Path) -> None:
    text = GOOD.replace(VMAMBA, "  vmamba: {backbone: digits-vmamba, connector: linear}\n")
    study = load_study(write(tmp_path, text + "may_differ: [backbone, connector]\n"))
    assert study.connector_of("vmamba") == "linear"
    assert study.connector_of("vit") == "gelu-mlp"


def test_taps_and_geometries_of_the_catalog_are_checked(tmp_path: Path) -> None:
    arm = "  vmamba: {backbone: digits-vmamba, tap: '2,-1', geometry: squash-64}\n"
    text = GOOD.replace(VMAMBA, arm) + "may_differ: [backbone, tap, geometry]\n"
    assert load_study(write(tmp_path, text)).arms["vmamba"].overrides == {
        "geometry": "squash-64",
        "tap": "2,-1",
    }


def test_your_own_backbone_file_is_found_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def build(): ...\n", encoding="utf-8")
    study = load_study(write(tmp_path, GOOD.replace("digits-vit", "mine.py:build")))
    assert study.arms["vit"].backbone == f"{(tmp_path / 'mine.py').resolve()}:build"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("question:", "qestion:", "qestion: unknown key. Did you mean question?"),
        ("recipe:", "recpie:", "recpie: unknown key. Did you mean recipe?"),
        ("benchmarks:", "tasks:", "tasks: unknown key; here it is called benchmarks"),
        (RECIPE, RECIPE + "  learning_rate: 1.0\n", "recipe.learning_rate: unknown key; here it is called recipe.lr"),
        (RECIPE, RECIPE + "  freeze_llm: true\n", "recipe.freeze_llm: unknown key; leave it out"),
        (RECIPE, RECIPE + "  connector: mlp2x_gelu\n", '"mlp2x_gelu"; here it is called gelu-mlp'),
        ("  vit:", f"  {'v' * 200}:", "is longer than 100 characters"),
        (RECIPE, RECIPE + "  lerning_rate: 1.0\n", "recipe.lerning_rate: unknown key."),
        (RECIPE, RECIPE + "  lr_peak: 1.0\n", "Allowed: data, llm, connector,"),
        (RECIPE, RECIPE + "  llm: other\n", 'not valid YAML, line 5 column 3: key "llm" stands twice'),
        (VMAMBA, VIT, 'line 7 column 3: key "vit" stands twice'),
        (
            RECIPE,
            RECIPE + "  connector: gelumlp\n",
            'recipe.connector: unknown value "gelumlp". Did you mean gelu-mlp?',
        ),
        (
            RECIPE,
            RECIPE + "  lr: fast\n",
            'recipe.lr: should be a valid number, got "fast" (peak learning rate of AdamW)',
        ),
        (RECIPE, RECIPE + "  lr: -1.0\n", "recipe.lr: should be greater than 0, got -1.0"),
        (RECIPE, RECIPE + "  lr: .nan\n", "recipe.lr: should be"),
        (RECIPE, RECIPE + "  num_epochs: yes\n", "recipe.num_epochs: should be a valid integer, got True"),
        (
            RECIPE,
            RECIPE + "  micro_batch: 100\n",
            "recipe: global_batch 128 is not a multiple of micro_batch 100",
        ),
        (
            "data: digits",
            "data: {name: digits, turn: 3}",
            "recipe.data.turn: unknown key. Did you mean turns?",
        ),
        (
            "data: digits",
            "data: {turns: 0}",
            "recipe.data.turns: should be greater than or equal to 1, got 0",
        ),
        (
            "data: digits",
            "data: {folder: x, turns: 1}",
            "recipe.data.turns: unknown key. Allowed: folder, instruction, skip_missing, box_frame.",
        ),
        ("data: digits", "data: 3", "recipe.data: expected a mapping of keys to values, got 3"),
        (
            "digits-vit",
            "digits-vti",
            "arms.vit.backbone: no backbone 'digits-vti' in the catalog: did you mean digits-vit?",
        ),
        ("digits-vit", "mine.py:build", "mine.py does not exist (the path is relative to the study file)"),
        ("digits-vit", "'timm:'", "arms.vit.backbone: timm: needs a model name"),
        (VIT, "  vit: {backbon: digits-vit}\n", "arms.vit.backbon: unknown key. Did you mean backbone?"),
        (VIT, "  vit: 3\n", "arms.vit: expected a mapping of keys to values, got 3"),
        (VIT, "  Vit_S: digits-vit\n", 'arms: "Vit_S" is not a kebab-case name'),
        (
            VIT,
            "  vit: {backbone: digits-vit, tap: -1}\n",
            "arms.vit.tap: arms may not differ here; add tap to may_differ",
        ),
        (VIT, "  vit: {backbone: digits-vit, tap: 99}\n", "arms.vit.tap: tap: block 99 does not exist"),
        (VIT, "  vit: {backbone: digits-vit, geometry: letterbx-64}\n", "Did you mean letterbox?"),
        (BENCHMARKS, "benchmarks: [pop]\n", 'benchmarks: unknown benchmark "pop". Did you mean pope?'),
        (BENCHMARKS, "benchmarks: [pope, pope]\n", 'benchmarks: "pope" is listed twice'),
        (BENCHMARKS, "benchmarks: []\n", "benchmarks: list should have at least 1 item"),
        (BENCHMARKS, "benchmarks: pope\n", 'benchmarks: should be a valid list, got "pope" (benchmark names'),
        (VIT, "  1: digits-vit\n", "arms.1"),
        (GOOD, "", "expected a mapping with question, recipe, arms and benchmarks, got None"),
        (GOOD, GOOD + "---\n" + GOOD, "not valid YAML, line 9 column 1"),
        (
            BENCHMARKS,
            BENCHMARKS + "may_differ: [backbone, taps]\n",
            'may_differ.1: unknown value "taps". Did you mean tap?',
        ),
        (
            BENCHMARKS,
            BENCHMARKS + "may_differ: [connector]\n",
            "arms: backbones differ; add backbone to may_differ",
        ),
        (BENCHMARKS, BENCHMARKS + "seeds: [7, 7]\n", "seeds: 7 is listed twice"),
        (BENCHMARKS, BENCHMARKS + "seeds: [-1]\n", "seeds.0: should be greater than or equal to 0, got -1"),
        (BENCHMARKS, BENCHMARKS + "matched: [size]\n", 'matched.0: unknown value "size". Allowed: tokens, parameters.'),
        (
            BENCHMARKS,
            BENCHMARKS + "beyond_positions: yes\n",
            "beyond_positions: unknown value True. Allowed: refuse, allow.",
        ),
        (BENCHMARKS, BENCHMARKS + "name: other\n", "name: a study is named after its file; remove this key"),
        (GOOD, "- a\n- b\n", "expected a mapping with question, recipe, arms and benchmarks"),
        (GOOD, "a: [1, 2\n", "not valid YAML, line 2 column 1"),
        (GOOD, "a: !!python/object:os.system {}\n", "not valid YAML, line 1"),
        (GOOD, "a: &x [1]\nb: *x\n", "line 2: aliases (*x) are not supported"),
    ],
)
def test_every_mistake_is_one_line_that_names_field_and_choice(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert old in GOOD
    assert expected in message(write(tmp_path, GOOD.replace(old, new)))


def test_a_recipe_file_is_what_stands_under_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, "data: digits\nllm: digits-llm\nlr: 1e-3\n", "recipe.yaml")
    assert load_recipe(path) == Recipe(data=DigitsData(), llm="digits-llm", lr=1e-3)
    write(tmp_path, "data: {turn: 1}\nllm: digits-llm\n", "recipe.yaml")
    with pytest.raises(SpecError, match=r"recipe\.yaml: data\.turn: unknown key\. Did you mean turns\?"):
        load_recipe(path)
    write(tmp_path, "- 1\n", "recipe.yaml")
    with pytest.raises(SpecError, match=r"recipe\.yaml: expected a mapping"):
        load_recipe(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert message(tmp_path / "none.yaml").endswith("none.yaml: no such file")


def test_a_folder_is_not_a_study(tmp_path: Path) -> None:
    assert "cannot be read" in message(tmp_path)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"question: \xff\xfe")
    assert "not UTF-8 text (byte 10)" in message(path)


def test_a_file_name_must_be_a_study_name(tmp_path: Path) -> None:
    assert "must be kebab-case" in message(write(tmp_path, GOOD, "My Study.yaml"))


@given(text=st.text(max_size=60))
def test_no_text_at_all_gives_anything_but_one_line(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "fuzz.yaml"
    path.write_bytes(text.encode("utf-8", errors="ignore"))
    message(path)
