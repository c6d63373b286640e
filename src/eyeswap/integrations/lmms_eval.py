"""What lmms-eval finds behind the entry point ``lmms_eval.models``: that there is a model called ``eyeswap``.

lmms-eval calls `models` while it is imported, and one plug-in that fails silences those after it; so nothing is done
here but to name a class, which is imported when a user says ``--model eyeswap``.
"""

from __future__ import annotations

from typing import Any

MODEL_CLASS = "eyeswap.integrations.lmms_eval_model.EyeswapVLM"


def models() -> Any:
    """Return the manifest of our model, of lmms-eval's own class ``ModelManifest``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="eyeswap", simple_class_path=MODEL_CLASS)
