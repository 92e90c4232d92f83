"""Networks that are no causal language models: classifiers, encoders, detectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

IMAGES = "image-classification"
TEXTS = "text-classification"
TOKENS = "token-classification"
ANSWERS = "question-answering"
SENTENCES = "sentence-embeddings"
BOXES = "object-detection"
TASKS = (IMAGES, TEXTS, TOKENS, ANSWERS, SENTENCES, BOXES)


@dataclass(frozen=True)
class Net:
    """A network, and what it is for.

    Attributes:
        module: in eval mode, float32; it takes tensors by position, the first dimension of each the
            examples, and gives one tensor: logits [examples, classes] of a classifier, [examples,
            tokens, tags] of one of tokens, [examples, tokens, 2] for start and end of an answer,
            vectors [examples, width] of an encoder, whatever its decoder reads of a detector.
        task: one of TASKS.
        inputs: names of the arguments, in their order.
        example: two examples of each argument, [2, ...], or one where the network takes no more.
        source: the file or folder that it came from.
        varying: dimensions of each argument that may have other sizes: 0 the examples, 1 the tokens
            of a text.
        classes: names in the order of the outputs, where they are known.
        preprocess: what the model's files say of preparing an image, as `data.images.Preprocess`
            takes it; empty where they say nothing.
        length: tokens of a text, at most; None where there is no limit, or no text.
        decoder: how a detector's output is read: "yolox", "yolov5", "yolov8" or "detr".
        config: of a Hugging Face model; None of others.
    """

    module: nn.Module
    task: str
    inputs: tuple[str, ...]
    example: tuple[Tensor, ...]
    source: Path
    varying: tuple[tuple[int, ...], ...] = ()
    classes: tuple[str, ...] | None = None
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    length: int | None = None
    decoder: str | None = None
    config: Any = None

    @property
    def texts(self) -> bool:
        """Whether it reads tokens."""
        return self.task in (TEXTS, TOKENS, ANSWERS, SENTENCES)

    @property
    def parameters(self) -> int:
        """How many numbers it holds; those that are shared count once."""
        return sum(p.numel() for p in self.module.parameters())
