"""Where the fat of a network is: figures for every layer, before anything is cut.

Half of the examples is fitted to, and the other half is held out: what a refit loses, and what the
network's answers would lose, is told of examples that nothing was fitted to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sprue.data.examples import Examples
from sprue.errors import InputError
from sprue.models import nets
from sprue.plan.look import WIDEST, Asked, Look, look
from sprue.plan.meaning import answers_of
from sprue.structure import gauges, matrices
from sprue.structure.findings import Findings, LayerFindings, Option
from sprue.structure.gauges import Batch, Damages, Moments, Profile
from sprue.structure.options import Change

DRAWS = 4
POSITIONS = 1 << 16  # of a layer
_HELD = 1 << 30  # bytes of second moments and of changes that are in memory at once
_CHANGES = 8  # of a layer, at most
_ACTIVATIONS = 1 << 25  # numbers that the layers give for a batch
_BATCH = 64
_CLASSES = (nets.IMAGES, nets.TEXTS, nets.TOKENS)


@dataclass(frozen=True)
class _Layer:
    """A weight to look at.

    Attributes:
        name: of the module that it is looked at in.
        others: modules with the same weight.
        module: that of the name.
        profile: of all of them together.
    """

    name: str
    others: tuple[str, ...]
    module: nn.Module
    profile: Profile

    @property
    def macs(self) -> float:
        if matrices.is_embedding(self.module):
            return 0.0
        return self.profile.positions * matrices.matrix(self.module).numel()


def inspect(
    net: nets.Net,
    examples: Examples,
    *,
    error: float = 0.01,
    share: float = 1e-3,
    r2: float = 0.99,
    seed: int = 0,
    draws: int = DRAWS,
    positions: int = POSITIONS,
    progress: Callable[[str], object] = lambda words: None,
) -> Findings:
    """Look at every layer of a network: Linear, Conv1d, Conv2d, Embedding.

    Args:
        net: the network; its module is not changed.
        examples: at least two.
        error: what may be lost of a layer's output where inputs, or directions of the output, are
            said to be spare: of its mean square, and of the variance of its channels, as
            `structure.redundancy` counts it.
        share: of an output's root mean square. A connection that contributes less is dead: a
            thousand independent ones at the default make up a thousandth of the mean square, a
            tenth of `error`.
        r2: share of a feature's variance that others explain where it is said to be repeated.
        seed: of everything random.
        draws: of answers for each example that was held out.
        positions: of a layer at which its second moments are taken, at most.
        progress: called with a few words before every step.

    Raises:
        InputError: too few examples, shares out of range, or no layer that is known.
    """
    _check(examples, error=error, share=share, r2=r2)
    asked = Asked(error, share, r2)
    halves = tuple(examples.some(range(i, len(examples), 2)) for i in (0, 1))
    layers, idle = _layers(net, examples)
    size = _batch_size(net, layers)
    found: list[LayerFindings] = []
    for i, some in enumerate(chunks := _chunks(layers)):
        part = f"part {i + 1} of {len(chunks)}"
        progress(f"{part}: what the layers read")
        looks = dict(_looks(net, halves, some, size, positions, seed, asked, progress))
        progress(f"{part}: what changes would cost")
        costs = _costs(net, halves[1], looks, some, size, draws, seed)
        found += [_merged(layer, looks[layer.name], costs.get(layer.name)) for layer in some]
    return Findings(
        layers=tuple(found),
        idle=idle,
        parameters=net.parameters,
        error=error,
        share=share,
        r2=r2,
        examples=(len(halves[0]), len(halves[1])),
        draws=draws,
        seed=seed,
    )


def changes(
    net: nets.Net, examples: Examples, *, share: float = 1e-3, seed: int = 0
) -> Iterator[tuple[str, Change]]:
    """What the techniques do to each layer, as `inspect` tries them: layer, change of its matrix.

    Args:
        net, examples, share, seed: as for `inspect`.
    """
    halves = tuple(examples.some(range(i, len(examples), 2)) for i in (0, 1))
    layers, _ = _layers(net, examples)
    size = _batch_size(net, layers)
    for some in _chunks(layers):
        for name, found in _looks(net, halves, some, size, POSITIONS, seed, Asked(share=share)):
            for change in found.changes:
                yield name, change


def _check(examples: Examples, **shares: float) -> None:
    if len(examples) < 2:
        raise InputError(
            f"expected two examples or more, one to fit to and one to measure with; got "
            f"{len(examples)}"
        )
    for name, value in shares.items():
        if not 0 < value < 1:
            raise InputError(f"{name} must be a share above 0 and below 1, got {value:g}")
    for x in examples.inputs:
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise InputError("the examples hold NaN or Inf: prepare them anew")


def _layers(net: nets.Net, examples: Examples) -> tuple[list[_Layer], tuple[tuple[str, int], ...]]:
    """Weights of layers that run, and layers that do not with their parameters."""
    count = min(len(net.example[0]), 2, len(examples))
    profiles = gauges.profile(net.module, examples.some(range(count)).batches(count)[0])
    every = {n: m for n, m in net.module.named_modules() if matrices.is_layer(m)}
    if not profiles:
        raise InputError(
            f"no layer of this network is known (Linear, Conv1d, Conv2d, Embedding run as modules "
            f"in what was opened from {net.source})"
        )
    sharing: dict[int, list[str]] = {}
    for name in profiles:
        sharing.setdefault(id(every[name].weight), []).append(name)
    idle = [(n, m) for n, m in every.items()
            if n not in profiles and id(m.weight) not in sharing]  # fmt: skip
    return [_layer(names, every, profiles) for names in sharing.values()], tuple(
        (name, sum(p.numel() for p in module.parameters())) for name, module in idle
    )


def _layer(
    names: Sequence[str], every: Mapping[str, nn.Module], profiles: Mapping[str, Profile]
) -> _Layer:
    """One weight: where an embedding shares it with a matrix, it is looked at as the matrix."""
    ordered = sorted(names, key=lambda n: matrices.is_embedding(every[n]))
    alike = [n for n in ordered if matrices.is_embedding(every[n]) is
             matrices.is_embedding(every[ordered[0]])]  # fmt: skip
    positions = sum(profiles[n].positions for n in alike)
    apart = all(profiles[n].apart for n in names)
    return _Layer(ordered[0], tuple(ordered[1:]), every[ordered[0]], Profile(positions, apart))


def _batch_size(net: nets.Net, layers: Sequence[_Layer]) -> int:
    """So many examples that what the layers give fits into memory."""
    if net.varying and 0 not in net.varying[0]:
        return len(net.example[0])
    given = sum(x.profile.positions * matrices.matrix(x.module).shape[0] for x in layers)
    return int(min(_BATCH, max(1, _ACTIVATIONS // max(given, 1))))


def _chunks(layers: Sequence[_Layer]) -> list[list[_Layer]]:
    """Neighbors whose second moments and changes are in memory together."""
    found: list[list[_Layer]] = []
    full = _HELD
    for layer in layers:
        out, width = matrices.matrix(layer.module).shape
        square = width if matrices.is_embedding(layer.module) or width > WIDEST else width**2
        size = 4 * (2 * square * matrices.groups(layer.module) + _CHANGES * out * width)
        if full + size > _HELD:
            found.append([])
            full = 0
        found[-1].append(layer)
        full += size
    return found


def _looks(
    net: nets.Net,
    halves: Sequence[Examples],
    some: Sequence[_Layer],
    size: int,
    positions: int,
    seed: int,
    asked: Asked,
    progress: Callable[[str], object] = lambda words: None,
) -> Iterator[tuple[str, Look]]:
    a, b = (_moments(net, half, some, size, positions, seed + i) for i, half in enumerate(halves))
    for layer in some:
        progress(f"{layer.name}: what could leave")
        yield layer.name, look(layer.module, (a.pop(layer.name), b.pop(layer.name)), asked)


def _moments(
    net: nets.Net, half: Examples, some: Sequence[_Layer], size: int, positions: int, seed: int
) -> dict[str, Moments]:
    shares = {
        layer.name: min(1.0, positions / 2 / max(1.0, layer.profile.positions * len(half)))
        for layer in some
    }
    return gauges.moments(
        net.module, half.batches(size), shares, seed, lambda b: _real(net, b), WIDEST
    )


def _real(net: nets.Net, batch: Batch) -> Tensor | None:
    """Which tokens are no padding."""
    if "attention_mask" not in net.inputs:
        return None
    mask: Tensor = batch[net.inputs.index("attention_mask")]
    return mask.bool() if mask.dim() == 2 else None


def _costs(
    net: nets.Net,
    held: Examples,
    looks: Mapping[str, Look],
    some: Sequence[_Layer],
    size: int,
    draws: int,
    seed: int,
) -> dict[str, Damages]:
    return gauges.damages(
        net.module,
        held.batches(size),
        {name: torch.stack([c.D for c in found.changes]) for name, found in looks.items()},
        {name: layer.profile for layer in some for name in (layer.name, *layer.others)},
        pull_of(net),
        draws=draws,
        seed=seed,
        tied={layer.name: layer.others for layer in some},
    )


def pull_of(net: nets.Net) -> gauges.Pull:
    """What the answers of a network are drawn by."""
    plain = answers_of(net).pull

    def pull(y: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        if net.task in _CLASSES:
            return _between_classes(y, _real(net, batch), generator)
        if net.task == nets.ANSWERS:
            return _between_classes(y.transpose(1, 2), None, generator)
        return plain(y, generator)

    return pull


def _between_classes(logits: Tensor, real: Tensor | None, generator: torch.Generator) -> Tensor:
    """A normal vector in each row whose covariance is the Fisher information, diag(p) - p p^T.

    Drawn classes have the same; but of a very sure network a few draws hold none of the answers
    that carry it.
    """
    p = logits.detach().softmax(-1)
    v = p.sqrt() * torch.randn(p.shape, generator=generator)
    u = v - p * v.sum(-1, keepdim=True)
    if real is not None and real.shape == u.shape[:-1]:
        u = u * real[..., None]
    return (logits * u).sum()


def _merged(layer: _Layer, found: Look, costs: Damages | None) -> LayerFindings:
    W = matrices.matrix(layer.module)
    silent = W.abs().amax(1) == 0
    if costs is None:  # nothing reads what it gives
        silent[:] = True
    else:
        silent |= costs.gradients <= 1e-12 * costs.gradients.mean()
    none = [0.0] * len(found.changes)
    nats, spread = (none, none) if costs is None else (costs.nats.tolist(), costs.spread.tolist())
    return LayerFindings(
        name=layer.name,
        kind=_kind(layer.module),
        out=W.shape[0],
        width=W.shape[1],
        parameters=W.numel(),
        macs=layer.macs,
        positions=found.positions,
        inputs=found.inputs,
        spare_inputs=found.spare_inputs,
        rank=found.rank,
        dead_connections=found.dead_connections,
        dead_inputs=found.dead_inputs,
        dead_outputs=int(silent.sum()),
        repeated_outputs=found.repeated_outputs,
        repeated_inputs=found.repeated_inputs,
        contributions=found.contributions,
        options=tuple(
            Option(layer.name, c.technique, c.nbytes, layer.macs * (1 - c.kept), n, s)
            for c, n, s in zip(found.changes, nats, spread, strict=True)
        ),
    )


def _kind(module: nn.Module) -> str:
    groups, name = matrices.groups(module), type(module).__name__
    if groups == 1:
        return name
    depthwise: Any = module
    return f"{name}, {'depthwise' if groups == depthwise.in_channels else f'{groups} groups'}"
