"""Units taken out of a network: smaller parameters, and attributes that follow them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from sprue.structure.ties import Nodes, Place
from sprue.structure.units import Group, names_of

Leaving = Mapping[Place, Nodes]  # place -> the indices that go


def together(chosen: Iterable[tuple[Group, Iterable[int]]]) -> dict[Place, Nodes]:
    """What goes with the chosen units of some groups, place by place, in order."""
    found: dict[Place, list[Nodes]] = {}
    for group, units in chosen:
        for unit in units:
            for place, indices in group.units[unit].items():
                found.setdefault(place, []).append(indices)
    return {place: np.unique(np.concatenate(parts)) for place, parts in found.items()}


@torch.no_grad()
def without(model: nn.Module, leaving: Leaving) -> nn.Module:
    """A copy of the model that lacks what leaves, a plain model of the same class.

    Raises:
        ValueError: nothing of a dimension would stay.
    """
    cut = copy.deepcopy(model)
    names = names_of(cut)
    for name in dict.fromkeys(place.name for place in leaving):
        old = _named(cut, name)
        new = old.detach()
        for place, indices in leaving.items():
            if place.name == name:
                new = _shorter(new, place, indices)
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, old.requires_grad)
        for same in names[id(old)]:  # tied parameters stay one
            owner, _, local = same.rpartition(".")
            module = cut.get_submodule(owner)
            setattr(module, local, new)
            _follow(module)
    return cut


@torch.no_grad()
def shaped(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a model with these weights, whose sizes may be others: a cut network, come back.

    Args:
        model: of the class of the cut one, with any weights.
        tensors: by the names of its parameters and buffers.

    Raises:
        ValueError: tensors of another network.
    """
    found = copy.deepcopy(model)
    known = {name for same in names_of(found).values() for name in same}
    unknown = sorted(set(tensors) - known)
    missing = sorted(n for n in known - set(tensors) if not n.endswith("num_batches_tracked"))
    shared = {n for same in names_of(found).values() for n in same if set(same) & set(tensors)}
    missing = [name for name in missing if name not in shared]
    if unknown or missing:
        what, name = ("unknown", unknown[0]) if unknown else ("missing", missing[0])
        raise ValueError(f"{name} is {what}: these are the weights of another network")
    for name, new in tensors.items():
        old = _named(found, name)
        value = (
            nn.Parameter(new.clone(), old.requires_grad) if isinstance(old, nn.Parameter) else new
        )
        for same in names_of(found)[id(old)]:
            owner, _, local = same.rpartition(".")
            module = found.get_submodule(owner)
            setattr(module, local, value)
            _follow(module)
    return found.eval()


@torch.no_grad()
def silenced(model: nn.Module, group: Group, units: Iterable[int]) -> nn.Module:
    """A copy of the model in which nothing reads these units: it answers as if they had left."""
    quiet = copy.deepcopy(model)
    for unit in units:
        for place in group.read:
            tensor = quiet.get_parameter(place.name)
            tensor.index_fill_(place.dim, torch.from_numpy(group.units[unit][place]), 0.0)
    return quiet


def _named(model: nn.Module, name: str) -> Tensor:
    owner, _, local = name.rpartition(".")
    found: Tensor = getattr(model.get_submodule(owner), local)
    return found


def _shorter(tensor: Tensor, place: Place, leaving: Nodes) -> Tensor:
    stay = np.setdiff1d(np.arange(tensor.shape[place.dim]), leaving)
    if not len(stay):
        raise ValueError(f"nothing of {place.name} would stay in dimension {place.dim}")
    return tensor.index_select(place.dim, torch.from_numpy(stay)).contiguous()


def _follow(module: nn.Module) -> None:
    """Attributes that say the sizes of a module's parameters."""
    match module:
        case nn.Linear():
            module.out_features, module.in_features = module.weight.shape
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            out, width = module.weight.shape[:2]
            if module.groups > 1:  # one input for each: only those are ever cut
                module.groups = out // (module.out_channels // module.groups)
            module.out_channels, module.in_channels = out, width * module.groups
        case nn.BatchNorm1d() | nn.BatchNorm2d() | nn.BatchNorm3d():
            assert module.running_mean is not None
            module.num_features = len(module.running_mean)
        case nn.Embedding():
            module.num_embeddings, module.embedding_dim = module.weight.shape
