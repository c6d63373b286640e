"""Studies for the tests of the report."""

import pytest
from made_study import write_study

from eyeswap.report.analysis.pairs import compare_averages
from eyeswap.report.analysis.study import gather


@pytest.fixture(scope="session")
def study_dir(tmp_path_factory):
    """A finished study of four arms with one seed; read it, do not change it."""
    return write_study(tmp_path_factory.mktemp("studies") / "synthetic")


@pytest.fixture(scope="session")
def results(study_dir):
    """The results of that study."""
    return gather(study_dir)


@pytest.fixture(scope="session")
def pairs(results):
    """Its arms, pair by pair in every average."""
    return compare_averages(results)


@pytest.fixture
def make_study(tmp_path):
    """Return a function that writes a study of one's own."""

    def make(**changes):
        return write_study(tmp_path / "synthetic", **changes)

    return make
