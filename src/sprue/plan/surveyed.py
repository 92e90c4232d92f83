"""What a survey has measured so far, saved from time to time, so that a killed one goes on.

Saved are the gradients on their way back, the Fisher information once it is known, and the outlooks
of every block. What takes little, the way forward, is gone again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from sprue.models import Stream
from sprue.models.fisher import Fisher, Halfway, fisher
from sprue.plan.keeping import Keeping
from sprue.weights.outlook import Outlook
from sprue.weights.rates import Spread

Looks = dict[str, tuple[Outlook, Sequence[Outlook]]]  # module -> without zeros, with each choice
_FISHER = "fisher"


class Saved:
    """One survey's.

    Args:
        keeping: keeps it; None: nothing is.
    """

    def __init__(self, keeping: Keeping | None = None) -> None:
        self._keeping = keeping

    def fisher(self, stream: Stream, seed: int, report: Callable[[int], None]) -> Fisher:
        """The Fisher information, as far as it was not measured before."""
        if self._keeping is None:
            return fisher(stream, seed=seed, progress=report)
        known = self._keeping.finished(_FISHER)
        if known is None:
            begun = self._begun(stream)
            found = fisher(stream, seed=seed, progress=report, begun=begun, keep=self._kept(stream))
            self._keeping.finish(_FISHER, {**found.rows, "": found.embedding})
            return found
        for i in range(2 * stream.blocks):
            report(i + 1)
        return Fisher(known, known.pop(""), stream.ids.numel())

    def _begun(self, stream: Stream) -> Halfway | None:
        live = self._keeping.live(_FISHER) if self._keeping else None
        if live is None:
            return None
        (gradient,) = live.waiting.get(stream, ("gradient",))
        return Halfway(live.told["block"], gradient, live.small)

    def _kept(self, stream: Stream) -> Callable[[Halfway], None]:
        def keep(at: Halfway) -> None:
            assert self._keeping is not None
            arrays, told = {"gradient": at.gradient}, {"block": at.block}
            self._keeping.keep(_FISHER, at.block, lambda: told, stream, arrays, at.sums)

        return keep

    def block(self, i: int) -> Looks | None:
        """The outlooks of block i, where they were measured before."""
        known = self._keeping.finished(f"outlooks{i:05d}") if self._keeping else None
        return None if known is None else _unpacked(known)

    def keep_block(self, i: int, looks: Looks) -> None:
        """The outlooks of block i are measured."""
        if self._keeping is not None:
            self._keeping.finish(f"outlooks{i:05d}", _packed(looks))


def _packed(looks: Looks) -> dict[str, Tensor]:
    return {
        f"{name}/{number}/{key}": tensor
        for name, (plain, others) in looks.items()
        for number, look in enumerate([plain, *others])
        for key, tensor in _tensors(look).items()
    }


def _unpacked(tensors: Mapping[str, Tensor]) -> Looks:
    found: dict[str, dict[int, dict[str, Tensor]]] = {}
    for path, tensor in tensors.items():
        name, number, key = path.rsplit("/", 2)
        found.setdefault(name, {}).setdefault(int(number), {})[key] = tensor
    return {
        name: (_outlook(rows[0]), [_outlook(rows[n]) for n in range(1, len(rows))])
        for name, rows in found.items()
    }


def _tensors(look: Outlook) -> dict[str, Tensor]:
    numbers = [*look.shape, look.scale, look.broken, look.beside, look.kept]
    spread = {f.name: torch.from_numpy(getattr(look.spread, f.name)) for f in fields(Spread)}
    rows = torch.from_numpy(look.rows)
    return {**spread, "rows": rows, "numbers": torch.tensor(numbers, dtype=torch.float64)}


def _outlook(tensors: Mapping[str, Tensor]) -> Outlook:
    out, width, scale, broken, beside, kept = tensors["numbers"].tolist()
    spread = Spread(**{f.name: tensors[f.name].numpy() for f in fields(Spread)})
    shape = int(out), int(width)
    return Outlook(shape, spread, scale, tensors["rows"].numpy(), broken, beside, kept)
