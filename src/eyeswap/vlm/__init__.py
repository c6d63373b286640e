"""The VLM: connector, chat frame, LLM, processor, model.

Importing this package makes transformers' Auto classes know the model: `AutoConfig`, `AutoProcessor` and
`AutoModelForImageTextToText` then open a saved folder.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from eyeswap.vlm.configuration import VisionLanguageConfig
from eyeswap.vlm.model import VisionLanguageModel
from eyeswap.vlm.processor import VisionLanguageProcessor

__all__ = ["VisionLanguageConfig", "VisionLanguageModel", "VisionLanguageProcessor"]

AutoConfig.register(VisionLanguageConfig.model_type, VisionLanguageConfig, exist_ok=True)
AutoProcessor.register(VisionLanguageConfig, VisionLanguageProcessor, exist_ok=True)
AutoModelForImageTextToText.register(VisionLanguageConfig, VisionLanguageModel, exist_ok=True)
