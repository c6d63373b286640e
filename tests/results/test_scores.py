import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eyeswap.errors import DataError
from eyeswap.files import write_json
from eyeswap.results.scores import pool_seeds, read_run_predictions, score_run, write_scores
from eyeswap.statistics.differences import sample_intervals
from eyeswap.statistics.resampling import Sample

SHAPE = {
    "pope": {"group": "vqa", "title": "POPE", "metric": "accuracy", "baseline": "always yes"},
    "refcoco": {"group": "localization", "title": "RefCOCO", "metric": "IoU >= 0.5", "baseline": "mean box"},
}


def write_run(run, num_examples=(30, 10), seed=0, **changes):
    generator = np.random.default_rng(seed)
    for (name, _), n in zip(SHAPE.items(), num_examples, strict=True):
        columns = {
            "example_id": [f"{name}-{i}" for i in range(n)],
            "image": [f"images/{i // 2}.png" for i in range(n)],
            "subset": ["adversarial" if i % 3 else "random" for i in range(n)],
            "score": (generator.random(n) < 0.7).astype(float),
            "baseline_score": (generator.random(n) < 0.4).astype(float),
            "invalid": [name == "refcoco" and i == 0 for i in range(n)],
        } | changes.get(name, {})
        path = run / "predictions" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
    write_json(run / "predictions" / "benchmarks.json", SHAPE)
    return run


def test_scores_have_the_documented_shape_and_are_percent(tmp_path):
    run = write_run(tmp_path)
    scores = score_run(run).as_json()
    assert list(scores) == ["benchmarks", "averages", "errors"]
    pope = scores["benchmarks"]["pope"]
    assert set(pope) == {
        *("group", "title", "metric", "unit", "n", "score", "interval"),
        *("baseline", "gain", "subsets", "invalid_rate", "num_examples", "errors"),
    }
    assert pope["n"] == 30
    assert pope["subsets"]["random"]["n"] == 10
    splits = [split["score"] for split in pope["subsets"].values()]
    assert pope["score"] == pytest.approx(np.mean(splits), abs=1e-3)  # POPE's splits count alike, whatever their sizes
    refcoco = scores["benchmarks"]["refcoco"]
    table = pq.read_table(run / "predictions" / "refcoco.parquet").to_pydict()
    assert refcoco["score"] == pytest.approx(100 * np.mean(table["score"]), abs=1e-3)
    assert refcoco["gain"]["value"] == pytest.approx(refcoco["score"] - refcoco["baseline"]["score"], abs=1e-3)
    expected = sample_intervals(Sample([[table["score"]]], [table["image"]]))[0]
    assert refcoco["interval"] == pytest.approx([100 * expected.low, 100 * expected.high], abs=1e-3)
    assert scores["benchmarks"]["refcoco"]["invalid_rate"] == 10.0


def test_averages_weigh_benchmarks_by_their_number_of_examples(tmp_path):
    scores = score_run(write_run(tmp_path)).as_json()
    pope, refcoco = (scores["benchmarks"][name]["score"] for name in SHAPE)
    overall = scores["averages"]["overall"]
    assert overall["n"] == 40
    assert overall["score"] == pytest.approx((30 * pope + 10 * refcoco) / 40, abs=1e-3)
    assert scores["averages"]["localization"]["score"] == refcoco
    assert overall["baseline"]["name"] == "trivial baselines"


def test_what_is_written_is_what_was_computed(tmp_path):
    run = write_run(tmp_path)
    path = write_scores(run)
    assert path == run / "scores.json"
    assert json.loads(path.read_text()) == score_run(run).as_json()


def test_pooled_seeds_are_example_means(tmp_path):
    runs = [read_run_predictions(write_run(tmp_path / str(seed), seed=seed)) for seed in range(3)]
    pooled = pool_seeds(runs)
    assert pooled[0].score == pytest.approx(np.mean([run[0].score for run in runs], axis=0))


def test_seeds_with_other_examples_are_not_pooled(tmp_path):
    first = read_run_predictions(write_run(tmp_path / "a"))
    ids = [f"pope-{i + 1}" for i in range(30)]
    other = read_run_predictions(write_run(tmp_path / "b", pope={"example_id": ids}))
    with pytest.raises(DataError, match=r"different examples from .*row 0: pope-1 against pope-0"):
        pool_seeds([first, other])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"score": [2.0] + [1.0] * 29}, r"row 0: score 2.0 is not in 0..1"),
        ({"score": [0.5, float("nan")] + [1.0] * 28}, r"row 1: score nan"),
        ({"baseline_score": [-0.1] * 30}, "baseline_score -0.1"),
        ({"example_id": ["same"] * 30}, "example_id appears twice"),
    ],
)
def test_impossible_predictions_are_refused_by_name(tmp_path, change, says):
    with pytest.raises(DataError, match=rf"pope\.parquet: .*{says}"):
        score_run(write_run(tmp_path, pope=change))


def test_missing_and_damaged_files_are_refused_by_name(tmp_path):
    run = write_run(tmp_path)
    (run / "predictions" / "refcoco.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(DataError, match=r"refcoco\.parquet: not a readable parquet file"):
        score_run(run)
    (run / "predictions" / "refcoco.parquet").unlink()
    with pytest.raises(DataError, match=r"refcoco\.parquet: no such file, but benchmarks\.json names it"):
        score_run(run)
    write_json(run / "predictions" / "benchmarks.json", {"pope": SHAPE["pope"] | {"group": "vision"}})
    with pytest.raises(DataError, match="group: vision is not one of vqa, localization"):
        score_run(run)
    pq.write_table(pa.table({"score": [1.0]}), run / "predictions" / "pope.parquet")
    write_json(run / "predictions" / "benchmarks.json", {"pope": SHAPE["pope"]})
    with pytest.raises(DataError, match="no column example_id, image, subset, baseline_score, invalid"):
        score_run(run)
