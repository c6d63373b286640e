"""The configuration of a VLM, as transformers reads and writes it (``config.json``).

It names the frozen backbone instead of containing it: catalog name, wiring, tap, and the digest of its weights, so
that a folder opens with the backbone it was trained with or not at all. The processor knows how images are prepared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import AutoConfig, PretrainedConfig

from eyeswap.backbones.weights import LoadedBackbone
from eyeswap.recipe import Wiring


class VisionLanguageConfig(PretrainedConfig):  # type: ignore[misc]  # transformers carries no types
    """Describe the parts of a `VisionLanguageModel`.

    Args:
        text_config: configuration of the LLM, any causal LM of transformers.
        backbone: name of the vision backbone (catalog, ``timm:...``, ``file.py:function``); empty for a VLM that is
            given visual tokens.
        wiring: ``controlled`` or ``as-published``, see `eyeswap.backbones.load_backbone`.
        tap: where features are read, if not at the backbone's default tap.
        weights_sha256: digest of the backbone's weights; None skips the check.
        backbone_file: file in the model's folder with the backbone's weights; None loads them by name.
        vision_width: width of a visual token.
        connector: kind of the connector, see `build_connector`; a custom one names a file in the model's folder.
        connector_sha256: of that file; None for built-in connectors.
        visual_grid: rows and columns of visual tokens that the connector was built for; None if it takes any.
        image_token_id: marks the position of each visual token in ``input_ids``; may exceed the LLM's vocabulary.
        bos_first: whether sequences begin with a beginning-of-sequence token. Visual tokens follow it, or come first if
            there is none.
        box_frame: the frame in whose fractions the model was trained to give boxes: ``original`` image,
            ``padded-square`` or ``canvas``.
    """

    model_type = "eyeswap"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig}

    def __init__(
        self,
        text_config: Any = None,
        backbone: str = "",
        wiring: Wiring = "controlled",
        tap: str | None = None,
        weights_sha256: str | None = None,
        backbone_file: str | None = None,
        vision_width: int = 1024,
        connector: str = "gelu-mlp",
        connector_sha256: str | None = None,
        visual_grid: Sequence[int] | None = None,
        image_token_id: int = 32001,
        bos_first: bool = True,
        box_frame: str = "original",
        **kwargs: Any,
    ) -> None:
        if text_config is None:
            text_config = {"model_type": "llama"}
        self.text_config = AutoConfig.for_model(**text_config) if isinstance(text_config, dict) else text_config
        self.backbone, self.wiring, self.tap = backbone, wiring, tap
        self.weights_sha256, self.backbone_file = weights_sha256, backbone_file
        self.vision_width, self.connector, self.connector_sha256 = vision_width, connector, connector_sha256
        self.visual_grid = None if visual_grid is None else (visual_grid[0], visual_grid[1])
        self.image_token_id, self.bos_first = image_token_id, bos_first
        self.box_frame = box_frame
        super().__init__(**kwargs)

    @staticmethod
    def describe_backbone(loaded: LoadedBackbone) -> dict[str, Any]:
        """Return the fields that name a backbone."""
        return {
            "backbone": loaded.name,
            "wiring": loaded.wiring,
            "tap": loaded.tap,
            "weights_sha256": loaded.weights_sha256,
        }
