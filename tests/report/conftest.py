"""Studies for the tests of the report."""

import pytest
from made_study import write_study

from eyeswap.report.analysis.pairs import compare_averages
from eyeswap.report.analysis.seeds import seed_spreads
from eyeswap.report.analysis.study import gather


@pytest.fixture(scope="session")
def study_dir(tmp_path_factory):
    """A finished study of four arms with one seed, which states a seed s.d.; read it, do not change it."""
    seed_sd = {"vqa": 0.5, "localization": 0.5, "source": "the test's own"}
    return write_study(tmp_path_factory.mktemp("studies") / "synthetic", seed_sd=seed_sd)


@pytest.fixture(scope="session")
def one_seed_dir(tmp_path_factory):
    """The same study, which states no seed s.d.: nothing is known of other training runs."""
    return write_study(tmp_path_factory.mktemp("studies") / "synthetic")


@pytest.fixture(scope="session")
def results(study_dir):
    """The results of that study."""
    return gather(study_dir)


@pytest.fixture(scope="session")
def pairs(results):
    """Its arms, pair by pair in every average."""
    return compare_averages(results, spreads=seed_spreads(results))


@pytest.fixture(scope="session")
def runs_only(one_seed_dir):
    """The results where nothing is known of other training runs, and their arms, pair by pair in every average."""
    results = gather(one_seed_dir)
    return results, compare_averages(results)


@pytest.fixture
def make_study(tmp_path):
    """Return a function that writes a study of one's own."""

    def make(**changes):
        return write_study(tmp_path / "synthetic", **changes)

    return make


@pytest.fixture
def no_drawing(monkeypatch):
    """Leave the figures of pages empty, for tests of words: to draw them takes most of the time of a page."""
    monkeypatch.setattr("eyeswap.report.writers.page.svg", lambda *_: "<svg></svg>")
