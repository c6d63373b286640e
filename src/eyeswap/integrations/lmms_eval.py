"""Registration of the model ``eyeswap`` with lmms-eval, through the entry point ``lmms_eval.models``.

lmms-eval calls `models` at import, and a plug-in that fails disables the plug-ins after it. This module therefore only
names the class, which is imported when a user passes ``--model eyeswap``.
"""

from __future__ import annotations

from typing import Any

MODEL_CLASS = "eyeswap.integrations.lmms_eval_model.EyeswapVLM"


def models() -> Any:
    """Return lmms-eval's ``ModelManifest`` of our model."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="eyeswap", simple_class_path=MODEL_CLASS)
