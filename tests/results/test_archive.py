"""Results in one file: the same bytes for the same results, merged whole or not at all, hostile files refused."""

import hashlib
import json
import shutil
import stat
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eyeswap.errors import DataError, SpecError
from eyeswap.files import write_json, write_text
from eyeswap.results.archive import MANIFEST, export_study, import_study
from eyeswap.results.scores import write_scores

ABOUT = {"pope": {"group": "vqa", "title": "POPE", "metric": "accuracy", "baseline": "always yes"}}


def write_run(run, seed=0):
    generator = np.random.default_rng(seed)
    rows = [
        {
            "example_id": str(n), "image": f"{n // 3}.png", "image_id": str(n // 3),
            "subset": "random", "kind": "yes-no", "question": "Is it?", "prompt": "Is it?",
            "answer": "yes", "truth": '"yes"',
            "score": float(generator.random() < 0.6), "invalid": False, "num_tokens": 1, "latency_s": 0.1,
            "baseline_score": float(generator.random() < 0.5),
        }
        for n in range(60)
    ]  # fmt: skip
    (run / "predictions").mkdir(parents=True)
    nulls = {"box": pa.list_(pa.float64()), "iou": pa.float64(), "margin": pa.float64()}
    table = pa.Table.from_pylist(rows)
    for name, kind in nulls.items():
        table = table.append_column(name, pa.nulls(len(rows), kind))
    pq.write_table(table, run / "predictions" / "pope.parquet")
    write_json(run / "predictions" / "benchmarks.json", ABOUT)
    write_json(run / "spec.json", {"arm": run.parent.name, "seed": seed})
    write_json(run / "environment.json", {"cpu": "a CPU"})
    write_text(run / "train.jsonl", '{"step": 0, "loss": 1.0}\n')
    write_scores(run)


def write_study(folder, arms=("vit", "vmamba"), seeds=(7,), question="Which?"):
    study = {"name": "small", "question": question, "seeds": list(seeds), "benchmarks": ["pope"],
             "arms": {arm: {"backbone": f"digits-{arm}"} for arm in arms}}  # fmt: skip
    write_json(folder / "study.json", study)
    write_text(folder / "report" / "report.md", "# small\n")
    for arm in arms:
        for seed in seeds:
            write_run(folder / arm / f"seed-{seed}", seed)
    (folder / "vit" / "seed-7" / "model").mkdir(parents=True, exist_ok=True)
    (folder / "vit" / "seed-7" / "model" / "connector.safetensors").write_bytes(b"heavy")
    return folder


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "home" / "small")


@pytest.fixture
def archive(study, tmp_path):
    path = tmp_path / "small.eyeswap.zip"
    export_study(study, path)
    return path


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_travels_is_all_but_weights_tokens_and_data(study, archive, tmp_path):
    done = import_study(archive, tmp_path / "there")
    sent, got = files_of(study), files_of(done.folder)
    del got["imports.json"]
    assert set(sent) - set(got) == {"vit/seed-7/model/connector.safetensors", "report/report.md"}
    assert "report/report.md" in packed(archive)
    assert {name: sent[name] for name in got} == {**got, "study.json": sent["study.json"]}
    assert done.added == ["vit/seed-7", "vmamba/seed-7"]
    assert not list((tmp_path / "there").glob(".import-*"))


def test_equal_results_give_equal_bytes(study, archive, tmp_path):
    (study / "vit" / "seed-7" / "scores.json").touch()
    again = tmp_path / "again.zip"
    export_study(study, again)
    assert again.read_bytes() == archive.read_bytes()


def test_importing_twice_changes_nothing(archive, tmp_path):
    first = import_study(archive, tmp_path / "there")
    before = files_of(first.folder)
    again = import_study(archive, tmp_path / "there")
    assert again.added == []
    assert again.known == first.added
    assert again.digest == first.digest
    assert files_of(first.folder) == before


def test_arms_and_seeds_of_two_labs_are_pooled(archive, tmp_path):
    there = write_study(tmp_path / "there" / "small", arms=("vit", "maxvit"), seeds=(7, 8))
    done = import_study(archive, tmp_path / "there")
    assert done.added == ["vmamba/seed-7"]
    study = json.loads((there / "study.json").read_text())
    assert list(study["arms"]) == ["vit", "maxvit", "vmamba"]
    assert study["seeds"] == [7, 8]


def test_unfinished_runs_stay_at_home(study, archive, tmp_path):
    (study / "vit" / "seed-7" / "scores.json").unlink()
    export_study(study, archive)
    assert import_study(archive, tmp_path / "there").added == ["vmamba/seed-7"]


def test_another_study_of_the_same_name_is_refused(archive, tmp_path):
    there = write_study(tmp_path / "there" / "small", question="Another?")
    before = files_of(there)
    with pytest.raises(SpecError, match=r"question is \"Which\?\", but \"Another\?\" in"):
        import_study(archive, tmp_path / "there")
    assert files_of(there) == before


def test_other_results_of_the_same_run_are_refused(archive, tmp_path):
    there = write_study(tmp_path / "there" / "small")
    shutil.rmtree(there / "vmamba")
    write_run(there / "vmamba" / "seed-7", seed=99)
    before = files_of(there)
    with pytest.raises(SpecError, match=r"vmamba/seed-7/.* differs"):
        import_study(archive, tmp_path / "there")
    assert files_of(there) == before


def packed(archive):
    with zipfile.ZipFile(archive) as opened:
        return {entry.filename: opened.read(entry) for entry in opened.infolist()}


def pack(archive, contents, manifest=None, links=()):
    """Write an archive; with ``manifest`` None, one whose manifest fits its contents."""
    files = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in contents.items()
        if name != MANIFEST
    }
    manifest = manifest or {"format": 1, "study": "small", "files": files}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(MANIFEST, json.dumps(manifest))
        for name in files:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFLNK if name in links else stat.S_IFREG) << 16
            opened.writestr(entry, contents[name])


def refused(archive, tmp_path, match):
    there = tmp_path / "there"
    with pytest.raises(DataError, match=match) as told:
        import_study(archive, there)
    assert "\n" not in str(told.value)
    assert not list(there.rglob("*"))


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "/etc/evil.json", "vit/seed-7/../../evil.json", "vit\\seed-7\\spec.json", "vit/seed-7/run.py",
     "vit/seed-7/model/llm.safetensors", ".hidden.json", "report/../x.md", "report/a\nb.md"],
)  # fmt: skip
def test_paths_that_no_study_has_are_refused(archive, tmp_path, name):
    pack(archive, {**packed(archive), name: b"{}"})
    refused(archive, tmp_path, "not a file of a study")


def test_a_study_name_that_leads_out_is_refused(archive, tmp_path):
    contents = packed(archive)
    manifest = {**json.loads(contents[MANIFEST]), "study": "../out"}
    pack(archive, contents, manifest)
    refused(archive, tmp_path, "format 1")


def test_a_changed_file_is_noticed(archive, tmp_path):
    contents = packed(archive)
    manifest = json.loads(contents[MANIFEST])
    name = "vit/seed-7/spec.json"
    pack(archive, {**contents, name: contents[name].replace(b"7", b"8")}, manifest)
    refused(archive, tmp_path, "was modified")


def test_scores_that_do_not_follow_from_the_predictions_are_noticed(archive, tmp_path):
    contents = packed(archive)
    scores = json.loads(contents["vit/seed-7/scores.json"])
    scores["benchmarks"]["pope"]["score"] += 5
    pack(archive, {**contents, "vit/seed-7/scores.json": json.dumps(scores).encode()})
    refused(archive, tmp_path, "scores.json: pope: score .* the predictions give")


def test_a_bomb_is_refused_before_it_unpacks(archive, tmp_path):
    contents = packed(archive)
    manifest = json.loads(contents[MANIFEST])
    pack(archive, {**contents, "report/report.md": b"0" * 50_000_000}, manifest)
    refused(archive, tmp_path, "more bytes than the manifest states")


def test_an_archive_that_says_it_is_huge_is_refused(archive, tmp_path):
    contents = packed(archive)
    manifest = json.loads(contents[MANIFEST])
    for told in manifest["files"].values():
        told["bytes"] = 2 << 30
    pack(archive, contents, manifest)
    refused(archive, tmp_path, "too large")


def test_an_archive_that_packs_a_lot_of_nothing_is_refused(archive, tmp_path):
    pack(archive, {**packed(archive), "report/report.md": b"0" * 100_000_000})
    refused(archive, tmp_path, "too large")


def test_an_archive_of_too_many_files_is_refused(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("eyeswap.results.archive.MAX_FILES", 20)
    pack(archive, {**packed(archive), **{f"vit/seed-{n}/spec.json": b"{}" for n in range(20)}})
    refused(archive, tmp_path, "too large")


def test_two_files_of_one_name_are_refused(archive, tmp_path):
    with zipfile.ZipFile(archive, "a") as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened.writestr("vit/seed-7/spec.json", '{"arm": "other"}')
    refused(archive, tmp_path, "was modified")


def test_files_that_lie_within_each_other_are_refused(archive, tmp_path):
    """Two entries that share their bytes, as in bombs without nesting."""
    name = "vit/seed-7/spec.json"
    pack(archive, {**packed(archive), "vmamba/seed-7/spec.json": packed(archive)[name]})
    with zipfile.ZipFile(archive, "a") as opened:
        opened.getinfo("vmamba/seed-7/spec.json").header_offset = opened.getinfo(name).header_offset
        opened._didModify = True
    refused(archive, tmp_path, Path(archive).name)


def test_predictions_of_too_many_rows_are_refused(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("eyeswap.results.archive.MAX_ROWS", 50)
    refused(archive, tmp_path, "60 rows")


def test_an_encrypted_file_and_an_unknown_packing_are_refused(archive, tmp_path):
    whole = archive.read_bytes()
    for offset, value in ((8, 1), (10, 99)):  # in the central directory: flags, and kind of packing
        changed = bytearray(whole)
        start = whole.rindex(b"PK\x01\x02")
        changed[start + offset] = value
        archive.write_bytes(changed)
        refused(archive, tmp_path, Path(archive).name)


def test_arms_of_one_name_that_differ_are_told_apart(archive, tmp_path):
    there = write_study(tmp_path / "there" / "small")
    study = json.loads((there / "study.json").read_text())
    study["arms"]["vit"]["connector"] = "linear"
    write_json(there / "study.json", study)
    with pytest.raises(SpecError, match=r'arms.vit.connector is null, but "linear" in'):
        import_study(archive, tmp_path / "there")


def test_recipes_that_differ_are_refused_by_the_field(study, tmp_path):
    archives = []
    for lr in (1e-3, 2e-3):
        written = json.loads((study / "study.json").read_text())
        write_json(study / "study.json", {**written, "recipe": {"llm": "x", "lr": lr}})
        archives.append(tmp_path / f"{lr}.zip")
        export_study(study, archives[-1])
    import_study(archives[0], tmp_path / "there")
    with pytest.raises(SpecError, match=r"recipe.lr is 0.002, but 0.001 in .*use another --runs folder"):
        import_study(archives[1], tmp_path / "there")


def test_links_are_refused(archive, tmp_path):
    pack(archive, packed(archive), links=("vit/seed-7/spec.json",))
    refused(archive, tmp_path, "link")


@pytest.mark.parametrize(
    "damage", ["empty", "text", "cut", "no manifest", "not parquet", "not json", "deep", "unlisted"]
)
def test_a_broken_file_is_told_in_one_line(archive, tmp_path, damage):
    contents, whole = packed(archive), archive.read_bytes()
    if damage == "empty":
        archive.write_bytes(b"")
    elif damage == "text":
        archive.write_text("hello")
    elif damage == "cut":
        archive.write_bytes(whole[: len(whole) // 2])
    elif damage == "no manifest":
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("study.json", "{}")
    elif damage == "not parquet":
        pack(archive, {**contents, "vit/seed-7/predictions/pope.parquet": b"PAR1"})
    elif damage == "not json":
        pack(archive, {**contents, "vit/seed-7/spec.json": b'{"a": NaN}'})
    elif damage == "deep":
        pack(archive, {**contents, "vit/seed-7/spec.json": b"[" * 100_000 + b"]" * 100_000})
    else:
        with zipfile.ZipFile(archive, "a") as opened:
            opened.writestr("analysis.json", "{}")
    refused(archive, tmp_path, Path(archive).name)


def test_a_folder_without_results_says_what_to_do(tmp_path):
    with pytest.raises(SpecError, match="not a study"):
        export_study(tmp_path, tmp_path / "a.zip")
    write_json(tmp_path / "study.json", {})
    with pytest.raises(SpecError, match="no finished run"):
        export_study(tmp_path, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
