"""Names that other projects use for keys of the study file: LLaVA, prismatic-vlms, transformers' Trainer, lmms-eval."""

from __future__ import annotations

KEYS = {
    "batch_size": "recipe.global_batch",
    "data_path": "recipe.data.instruction",
    "dataloader_num_workers": "execution.workers",
    "epochs": "recipe.num_epochs",
    "global_batch_size": "recipe.global_batch",
    "gradient_checkpointing": "execution.recompute",
    "image_aspect_ratio": "arms.<name>.geometry",
    "image_folder": "recipe.data.folder",
    "image_resize_strategy": "arms.<name>.geometry",
    "learning_rate": "recipe.lr",
    "limit": "subset",
    "llm_backbone_id": "recipe.llm",
    "llm_max_length": "recipe.max_text_tokens",
    "lora_r": "recipe.lora_rank",
    "lr_scheduler_type": "recipe.schedule",
    "max_grad_norm": "recipe.clip_norm",
    "mm_projector_type": "recipe.connector",
    "mm_vision_select_layer": "arms.<name>.tap",
    "model_max_length": "recipe.max_text_tokens",
    "model_name_or_path": "recipe.llm",
    "num_train_epochs": "recipe.num_epochs",
    "per_device_batch_size": "recipe.micro_batch",
    "per_device_train_batch_size": "recipe.micro_batch",
    "projector": "recipe.connector",
    "report_to": "execution.track",
    "tasks": "benchmarks",
    "vision_backbone_id": "arms.<name>.backbone",
    "vision_encoder": "arms.<name>.backbone",
    "vision_tower": "arms.<name>.backbone",
    "warmup_ratio": "recipe.warmup_fraction",
}
VALUES = {
    "2-layer": "gelu-mlp",
    "3-layer": "fused-gelu-mlp",
    "bfloat16": "bf16",
    "float16": "bf16",
    "float32": "fp32",
    "fp16": "bf16",
    "linear-warmup+cosine-decay": "cosine",
    "mlp2x_gelu": "gelu-mlp",
    "mlp3x_gelu": "fused-gelu-mlp",
    "no-align+fused-gelu-mlp": "fused-gelu-mlp",
    "no-align+gelu-mlp": "gelu-mlp",
}
FIXED = {
    "bf16": "write recipe.precision: bf16",
    "fp16": "write recipe.precision: bf16",
    "freeze_backbone": "leave it out: the backbone is always frozen",
    "freeze_llm": "leave it out: connector and language model are trained, in one stage",
    "freeze_vision_tower": "leave it out: the backbone is always frozen",
    "gradient_accumulation_steps": "it follows from recipe.global_batch and recipe.micro_batch",
    "lora_enable": "write recipe.lora_rank: 128, or leave it out",
    "tune_mm_mlp_adapter": "leave it out: connector and language model are trained, in one stage",
}


def hint(word: str, is_key: bool) -> str | None:
    """Return what to write in place of another project's key or value; None if it is unknown.

    Example:
        >>> hint("learning_rate", is_key=True)
        'here it is called recipe.lr'
    """
    if is_key and word in FIXED:
        return FIXED[word]
    name = (KEYS if is_key else VALUES).get(word)
    return f"here it is called {name}" if name else None
