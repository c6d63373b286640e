"""The code of a connector of one's own, in the folder of the VLM that was trained with it.

Whoever loads such a folder runs the file in it, so it has to be trusted first; a study trusts the file that it names
itself. Its digest stands in the config, so that the file is the one that was trained with or the folder does not open.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers.utils import cached_file

from eyeswap.connector_name import ConnectorName
from eyeswap.errors import CheckpointError, SpecError
from eyeswap.files import sha256_of
from eyeswap.vlm.configuration import VisionLanguageConfig
from eyeswap.vlm.connector import Connector, own_connector


def save_code(connector: Connector, folder: Path) -> None:
    """Copy the file of a connector of one's own into the folder of a VLM."""
    if connector.file is not None:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(connector.file, folder / connector.file.name)


def load_code(config: VisionLanguageConfig, folder: str, trusts: bool | str) -> Connector | None:
    """Build the connector of a VLM from the code beside its config; None if it needs none.

    Args:
        config: the config of the VLM.
        folder: where the VLM came from, a folder or a repository of the Hub.
        trusts: whether its code may run, whatever it is; or the sha256 of the file that may.

    Raises:
        SpecError: if it may not, or fails.
        CheckpointError: if the file is missing, or not the one that the VLM was trained with.
    """
    own = ConnectorName.parse(config.connector).own
    if own is None:
        return None
    if own.file.name != str(own.file):
        raise CheckpointError(f"{folder}: config.json: connector {config.connector!r} lies outside of the folder")
    if not trusts:
        raise SpecError(
            f"{folder}: its connector is code of its own, {own.file.name}; read it, and if you trust it load with "
            "--trust-code (in Python trust_remote_code=True)"
        )
    if isinstance(trusts, str) and trusts != config.connector_sha256:
        raise SpecError(f"{folder}: the code of its connector, {own.file.name}, is not the file that the study names")
    try:
        file = Path(cached_file(folder, own.file.name))
    except OSError:
        raise CheckpointError(f"{folder}: {own.file.name} is missing, the code of its connector") from None
    if sha256_of(file) != config.connector_sha256:
        raise CheckpointError(f"{file}: not the code that this VLM was trained with (its sha256 is another)")
    width = config.text_config.hidden_size
    return own_connector(f"{file}:{own.name}", config.vision_width, width, 0, config.visual_grid)
