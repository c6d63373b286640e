"""Registration of the model ``eyeswap`` with lmms-eval, through the entry point ``lmms_eval.models``.

lmms-eval calls `models` at import, and a plug-in that fails disables the plug-ins after it. This module therefore only
names the class, which is imported when a user passes ``--model eyeswap``.

``python -m eyeswap.integrations.lmms_eval`` is lmms-eval's own command, also where the library of torchvision, which it
imports, does not load (`eyeswap.torchvision_operators`).
"""

from __future__ import annotations

import runpy
from typing import Any

MODEL_CLASS = "eyeswap.integrations.lmms_eval_model.EyeswapVLM"


def models() -> Any:
    """Return lmms-eval's ``ModelManifest`` of our model."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="eyeswap", simple_class_path=MODEL_CLASS)


if __name__ == "__main__":
    runpy.run_module("lmms_eval", run_name="__main__", alter_sys=True)
