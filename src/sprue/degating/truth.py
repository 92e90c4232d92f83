"""What examples say is true, as training takes it."""

from __future__ import annotations

import torch
from torch import Tensor

from sprue.data.examples import Examples
from sprue.models import nets
from sprue.plan.teach import UNKNOWN
from sprue.proof.scores.classes import labels_of


@torch.no_grad()
def true_classes(net: nets.Net, examples: Examples) -> Tensor | None:
    """What is true of examples, as `plan.teach` takes it; None: no classes, or nothing is known.

    Raises:
        InputError: a class that the network has no output for.
    """
    if examples.truth is None or net.task not in (nets.IMAGES, nets.TEXTS, nets.TOKENS):
        return None
    logits = net.module(*net.example)
    if net.task != nets.TOKENS:
        return torch.from_numpy(labels_of(logits.numpy(), examples.truth))
    most = examples.inputs[0].shape[1]
    found = torch.full((len(examples), most), UNKNOWN)
    for row, tags in zip(found, examples.truth, strict=True):
        some = torch.as_tensor(tags)[:most]
        row[: len(some)] = some
    known = found[found != UNKNOWN]
    if len(known):
        labels_of(logits.numpy(), known.numpy())
    return found
