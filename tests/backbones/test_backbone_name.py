from __future__ import annotations

from pathlib import Path

import pytest

from eyeswap.backbones.name import BackboneName
from eyeswap.errors import SpecError
from eyeswap.files import sha256_of


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("vmamba-tiny-s1l8", BackboneName("catalog", "vmamba-tiny-s1l8")),
        ("timm:vit_a@224+vit_b", BackboneName("timm", "vit_a@224+vit_b")),
        ("mine.py:small", BackboneName("own", "small", Path("lab/mine.py"))),
        ("/abs/mine.py", BackboneName("own", "build", Path("/abs/mine.py"))),
    ],
)
def test_a_name_is_read_and_written_again(text: str, name: BackboneName) -> None:
    assert BackboneName.parse(text, Path("lab")) == name
    assert BackboneName.parse(str(name)) == name


@pytest.mark.parametrize(("text", "message"), [("timm:", "needs a model name"), ("a.py:1x", "write a.py:build")])
def test_a_name_without_a_model_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        BackboneName.parse(text)


def test_the_code_of_an_own_encoder_is_part_of_its_identity(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def build(): ...\n", encoding="utf-8")
    assert BackboneName.parse(str(file)).file_sha256 == sha256_of(file)
    assert BackboneName.parse("digits-vit").file_sha256 is None
