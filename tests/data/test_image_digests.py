"""The digest of a data set's images follows their bytes; sampled ones follow size and both ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from eyeswap.data.image_digests import Hashing, digests_of_sets

SETS = {"training": ["a.png", "b.png", "a.png"], "pope": ["b.png"], "none": []}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode() + bytes(20_000))
    return tmp_path


@pytest.mark.parametrize("hashing", ["sampled", "full"])
def test_equal_files_have_equal_digests_and_a_changed_one_changes_its_sets(root: Path, hashing: Hashing) -> None:
    before = digests_of_sets(root, SETS, hashing)
    assert before == digests_of_sets(root, SETS | {"training": ["b.png", "a.png"]}, hashing)
    assert set(before) == {"training", "pope"}
    assert before["pope"].startswith(f"{hashing}:")
    for change in (b"A.png" + bytes(20_000), b"a.png" + bytes(19_999) + b"1", b"a.png" + bytes(20_001)):
        (root / "a.png").write_bytes(change)
        after = digests_of_sets(root, SETS, hashing)
        assert (after["training"] != before["training"], after["pope"]) == (True, before["pope"])
    (root / "a.png").unlink()
    assert digests_of_sets(root, SETS, hashing)["training"] != before["training"]


def test_only_the_full_digest_sees_the_middle_of_a_file(root: Path) -> None:
    before = {hashing: digests_of_sets(root, SETS, hashing) for hashing in ("sampled", "full")}
    (root / "a.png").write_bytes(b"a.png" + bytes(10_000) + b"1" + bytes(9_999))
    after = {hashing: digests_of_sets(root, SETS, hashing) for hashing in ("sampled", "full")}
    assert before["sampled"] == after["sampled"]
    assert before["full"]["training"] != after["full"]["training"]
