"""A trained run as a model of lmms-eval: ``lmms-eval --model eyeswap --model_args run=RUN --tasks pope``.

Prompts are those of the task, in the chat frame of the run's LLM; decoding is greedy. Consecutive requests about the
same image share its encoding and prefill. Requires the package ``lmms_eval``, which is not a dependency of eyeswap.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.model import lmms
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from eyeswap.errors import SpecError, nearest
from eyeswap.evaluation.ask import model_folder
from eyeswap.evaluation.generate import Generator, Request
from eyeswap.progress import progress
from eyeswap.training.collate import encode_conversation
from eyeswap.vlm.model import IGNORED, VisionLanguageModel

_MAX_NEW_TOKENS = 128
_MOST_TEXT_TOKENS = 10**6
SEVERAL_IMAGES = ("refuse", "first")


class EyeswapVLM(lmms):  # type: ignore[misc]  # lmms-eval carries no types
    """The VLM of a run.

    Args:
        run: a run's folder, or a folder with a saved VLM.
        device: device of the VLM; by default the first GPU, or the CPU.
        batch_size: largest number of questions answered together.
        several_images: whether to ``refuse`` a question about several images, or answer about the ``first``.
        trust_code: whether the code of the VLM's custom encoder and connector may run.
        **others: passed by lmms-eval to every model; ``max_batch_size`` is not used.

    Raises:
        SpecError: if an argument is unknown or invalid.
        RunError: if the folder contains no trained model.
    """

    is_simple = True

    def __init__(
        self,
        run: str = "",
        device: str | None = None,
        batch_size: int | str = 32,
        several_images: str = "refuse",
        trust_code: bool | str = False,
        **others: Any,
    ) -> None:
        super().__init__()
        unknown = sorted(set(others) - {"max_batch_size"})
        if unknown:
            raise SpecError(
                f"--model_args {unknown[0]}: {nearest(unknown[0], ('run', 'device', 'several_images', 'trust_code'))}"
            )
        if not run:
            raise SpecError("--model_args: name a run, such as run=runs/quickstart/vit/seed-7")
        if several_images not in SEVERAL_IMAGES:
            raise SpecError(f"--model_args several_images={several_images}: {nearest(several_images, SEVERAL_IMAGES)}")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise SpecError("eyeswap inside lmms-eval runs in one process; start it without torchrun or accelerate")
        folder = model_folder(Path(run))
        self.device = torch.device((device or "cuda") if torch.cuda.is_available() else "cpu")
        self.vlm = (
            VisionLanguageModel.load(folder, trust_remote_code=str(trust_code).lower() == "true").eval().to(self.device)
        )
        self.batch_size = int(batch_size) if str(batch_size).isdecimal() else 32
        self.several_images = several_images
        self.tokenizer = self.vlm.tokenizer
        self._generator = Generator(self.vlm, self.batch_size)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer requests with arguments ``(context, generation settings, doc_to_visual, doc_id, task, split)``."""
        answers: list[str] = []
        with progress() as board:
            task = board.task("eyeswap answers", len(requests))
            for start in range(0, len(requests), self.batch_size):
                batch = [request.args for request in requests[start : start + self.batch_size]]
                answers += self._answer(batch)
                task.advance(len(batch))
        return answers

    @torch.inference_mode()
    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Return for each ``(context, target, doc_to_visual, doc_id, task, split)`` the loss and whether it is greedy.

        Despite the method's name this is the mean cross-entropy of the target's tokens including the end of the answer;
        lmms-eval takes the smallest as the model's choice.
        """
        scores = []
        with progress() as board:
            for args in board.track((request.args for request in requests), "eyeswap compares", len(requests)):
                context, target, doc_to_visual, doc_id, task, split = args
                document = self.task_dict[task][split][doc_id]
                wanted = target if isinstance(target, str) else target(document)
                tokens = self._encode(self._image(doc_to_visual(document), task))
                scores.append(self._loss(tokens, str(context), str(wanted).strip()))
        return scores

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse, because runs are not trained to answer in several rounds.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("eyeswap does not support tasks of several rounds")

    def _answer(self, arguments: Sequence[tuple[Any, ...]]) -> list[str]:
        """Answer one batch; requests about the same image share its prefill."""
        images: dict[str, Image.Image | None] = {}
        asked: dict[str, list[int]] = {}
        all_requests: list[Request] = []
        for number, (context, settings, doc_to_visual, doc_id, task, split) in enumerate(arguments):
            image = self._image(doc_to_visual(self.task_dict[task][split][doc_id]), task)
            key = "" if image is None else hashlib.sha256(str(image.size).encode() + image.tobytes()).hexdigest()
            images[key] = image
            asked.setdefault(key, []).append(number)
            all_requests.append(self._request(str(context), settings))
        tokens = [self._encode(image) for image in images.values()]
        answers = self._generator.answer(tokens, [[all_requests[n] for n in asked[key]] for key in images])
        texts = {
            number: generation.text
            for key, of_image in zip(images, answers, strict=True)
            for number, generation in zip(asked[key], of_image, strict=True)
        }
        return [_cut(texts[number], _stops(args[1])) for number, args in enumerate(arguments)]

    def _request(self, context: str, settings: dict[str, Any]) -> Request:
        stops = _stops(settings)
        return Request(
            self.vlm.prompt.question(context),
            max_new_tokens=int(settings.get("max_new_tokens", _MAX_NEW_TOKENS)),
            is_decided=(lambda text: any(stop in text for stop in stops)) if stops else None,
        )

    def _image(self, visuals: Any, task: str) -> Image.Image | None:
        """Return the image of a question, or None if it is text only."""
        images = [image for image in _flat(visuals) if image is not None]
        if len(images) > 1 and self.several_images == "refuse":
            raise SpecError(
                f"task {task}: a question has {len(images)} images, but a run takes one; leave out the task, or pass "
                "--model_args several_images=first"
            )
        for image in images:
            if not isinstance(image, Image.Image):
                raise SpecError(f"task {task}: a run takes images, not {type(image).__name__}; leave out the task")
        return images[0].convert("RGB") if images else None

    @torch.inference_mode()
    def _encode(self, image: Image.Image | None) -> Tensor:
        """Return the visual tokens ``[N, vision_width]`` of an image, with ``N = 0`` without one."""
        if image is None:
            return torch.zeros(0, self.vlm.config.vision_width, device=self.device)
        pixels, _ = self.vlm.processor.image_geometry.place(image)
        tokens: Tensor = self.vlm.encode(pixels[None].to(self.device))[0]
        return tokens

    def _loss(self, tokens: Tensor, context: str, target: str) -> tuple[float, bool]:
        encoded = encode_conversation([context, target], self.vlm.prompt, self.tokenizer, _MOST_TEXT_TOKENS)
        ids = torch.tensor([self.vlm.insert_visual(encoded.input_ids, len(tokens))], device=self.device)
        labels = torch.tensor(encoded.labels, device=self.device)
        embedded = self.vlm.embed(ids, tokens)
        logits = self.vlm.llm(inputs_embeds=embedded, use_cache=False).logits[0, len(tokens) :].float()  # [T, V]
        is_target = labels[1:] != IGNORED  # position t predicts token t + 1
        predicted, targets = logits[:-1][is_target], labels[1:][is_target]
        return float(F.cross_entropy(predicted, targets)), bool((predicted.argmax(-1) == targets).all())


def _stops(settings: dict[str, Any]) -> list[str]:
    """Return the texts at which an answer ends, from the task's ``until``."""
    until = settings.get("until") or []
    return [stop for stop in ([until] if isinstance(until, str) else list(until)) if stop]


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text.strip()


def _flat(visuals: Any) -> Iterator[Any]:
    if isinstance(visuals, list | tuple):
        for visual in visuals:
            yield from _flat(visual)
    else:
        yield visuals
