"""What the outputs of a network mean, by its task: how far two answers lie apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sprue.models import nets
from sprue.structure.readings import CLASSES, VECTORS, Answers

_FLOOR = 0.01  # what an anchor that sees nothing counts, where a certain one counts 1
# Units in which the parts of a detector's output are alike in what an error does to it: corners
# by an eighth of a cell or sixteen pixels, sizes by a tenth, scores by a tenth.
_BOX = {"yolox": 5.0, "yolov5": 1 / 16, "yolov8": 1 / 16, "detr": 20.0}
_SCORE = {"yolox": 10.0, "yolov5": 10.0, "yolov8": 10.0, "detr": 1.0}


def answers_of(net: nets.Net) -> Answers:
    """What the outputs of this network mean."""
    if net.task in (nets.IMAGES, nets.TEXTS, nets.TOKENS):
        return CLASSES
    if net.task == nets.ANSWERS:
        return _seen(CLASSES, lambda y: y.transpose(1, 2))  # start and end among the tokens
    if net.task == nets.BOXES:
        decoder = net.decoder or "yolox"
        return _weighted(lambda y: _rows(y, decoder), lambda rows: _units(rows, decoder))
    return VECTORS


def _seen(answers: Answers, view: Callable[[Tensor], Tensor]) -> Answers:
    return Answers(
        lambda y, generator: answers.pull(view(y), generator),
        lambda a, b: answers.apart(view(a), view(b)),
    )


def _weighted(rows: Callable[[Tensor], Tensor], units: Callable[[Tensor], Tensor]) -> Answers:
    """Vectors in units that the outputs themselves say, those of the first where there are two."""

    def pull(y: Tensor, generator: torch.Generator) -> Tensor:
        return VECTORS.pull(rows(y) * units(rows(y.detach())), generator)

    def apart(a: Tensor, b: Tensor) -> float:
        scale = units(rows(a))
        return VECTORS.apart(rows(a) * scale, rows(b) * scale)

    return Answers(pull, apart)


def _rows(y: Tensor, decoder: str) -> Tensor:
    """[examples, anchors, 4 + scores]."""
    return y.transpose(1, 2) if decoder == "yolov8" else y


def _units(rows: Tensor, decoder: str) -> Tensor:
    scores = rows[..., 4:]
    if decoder == "detr":
        seen = 1 - scores.softmax(-1)[..., -1:]
    elif decoder == "yolov8":
        seen = scores.amax(-1, keepdim=True)
    else:
        seen = scores[..., :1] * scores[..., 1:].amax(-1, keepdim=True)
    weight = (seen.clamp(0, 1) + _FLOOR).sqrt()
    box = torch.full_like(rows[..., :4], _BOX[decoder])
    return weight * torch.cat((box, torch.full_like(scores, _SCORE[decoder])), -1)


_SOFT = 2.0  # temperature of classes, at which unlikely ones tell something too


def loss_of(net: nets.Net) -> Callable[[Tensor, Tensor], Tensor]:
    """The distance of two answers that a network is taught by: differentiable in the second."""
    if net.task in (nets.IMAGES, nets.TEXTS, nets.TOKENS):
        return soft_classes
    if net.task == nets.ANSWERS:
        return lambda a, b: soft_classes(a.transpose(1, 2), b.transpose(1, 2))
    if net.task == nets.BOXES:
        decoder = net.decoder or "yolox"
        return lambda a, b: _seen_apart(_rows(a, decoder), _rows(b, decoder), decoder)
    return vectors_apart


def soft_classes(aim: Tensor, answer: Tensor) -> Tensor:
    """KL at a temperature, the mean over rows, times its square (Hinton et al. 2015, section 2)."""
    p, q = (x.flatten(0, -2) / _SOFT for x in (aim, answer))
    kl = nn.functional.kl_div(
        q.log_softmax(-1), p.log_softmax(-1), reduction="batchmean", log_target=True
    )
    return _SOFT**2 * kl


def vectors_apart(aim: Tensor, answer: Tensor) -> Tensor:
    """One minus the cosine of each, and what is lost of the cosines between them."""
    a, b = (nn.functional.normalize(x, dim=-1) for x in (aim, answer))
    return (1 - (a * b).sum(-1)).mean() + (a @ a.T - b @ b.T).square().mean()


def _seen_apart(aim: Tensor, answer: Tensor, decoder: str) -> Tensor:
    scale = _units(aim, decoder)
    away = nn.functional.smooth_l1_loss(answer * scale, aim * scale, reduction="sum")
    return away / len(aim) / 100  # about a hundred anchors see something
