"""Modules that hold a packed matrix, buffers exactly as stored, and multiply with it.

The dense matrix exists at most a block of rows at a time. Moving a module moves the buffers and
never casts them: `model.to(torch.bfloat16)` changes what goes in and out, not what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from sprue.weights import packed

Layout = Mapping[str, Any]


class _Holder(nn.Module):
    """Buffers of a packed matrix under their stored names."""

    layout: Layout
    _like: Tensor

    def _hold(
        self, layout: Layout, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        """Make the buffers, uninitialized; to be called once, after `nn.Module.__init__`."""
        with torch.device(device or torch.get_default_device()):
            empty = packed.empty_tensors(layout)
        for name, tensor in empty.items():
            self.register_buffer(name, tensor)
        # The dtype in which results come out: empty, and cast by `to` like any parameter.
        like = torch.empty(0, device=device, dtype=dtype)
        self.register_buffer("_like", like, persistent=False)
        self.layout = layout

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by its stored name."""
        return {name: cast(Tensor, self._buffers[name]) for name in self.layout["tensors"]}

    def dense(self) -> Tensor:
        """W^, float32 [out, in]: a new tensor."""
        return packed.dense(self.layout, self.tensors)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Holder:
        stored = self.tensors
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in stored.items():
            after = cast(Tensor, self._buffers[name])
            if after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        return self

    def __getattr__(self, name: str) -> Any:
        # Code that asks a linear or an embedding for the shape or dtype of its weight gets a
        # tensor of that shape and dtype, without memory: computing with it fails loudly.
        if name == "weight" and "layout" in self.__dict__ and name not in self._buffers:
            return _shadow(tuple(self.layout["shape"]), self._like.dtype)
        return super().__getattr__(name)

    def extra_repr(self) -> str:
        out, width = self.layout["shape"]
        low_rank = self.layout.get("low_rank")
        rank = f", rank={low_rank['rank']}" if low_rank else ""
        return f"in={width}, out={out}, grid={self.layout['grid']}{rank}"


class PackedLinear(_Holder):
    """y = x @ W^.T + bias, with W^ [out, in] packed.

    Args:
        layout: of the matrix (`weights.packed.layout`).
        bias: whether a bias [out] is added; a parameter like any other.
        device: where the (uninitialized) tensors are made.
        dtype: of the bias.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        layout: Layout,
        bias: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self._hold(layout, device, dtype)
        self.out_features, self.in_features = layout["shape"]
        empty = torch.empty(self.out_features, device=device, dtype=dtype) if bias else None
        self.register_parameter("bias", None if empty is None else nn.Parameter(empty))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in], floating; returns [..., out] in x's dtype."""
        y = packed.matmul(self.layout, self.tensors, x)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class PackedEmbedding(_Holder, nn.Embedding):
    """W^[ids], with W^ [vocabulary, width] packed; only the rows that are asked for are decoded.

    It is an `nn.Embedding` so that `like` can put it under a class that derives from one.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        padding_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self._hold(layout, device, dtype)
        self.num_embeddings, self.embedding_dim = layout["shape"]
        self.padding_idx = padding_idx

    @classmethod
    def like(cls, old: nn.Embedding, layout: Layout) -> PackedEmbedding:
        """A packed embedding that does with its rows what `old` does, for example scale them.

        A class that derives from `nn.Embedding` looks its rows up by `super().forward`. Here that
        call finds PackedEmbedding, and whatever the class adds before and after stays.
        """
        weight = old.weight
        made = cls(layout, padding_idx=old.padding_idx, device=weight.device, dtype=weight.dtype)
        if type(old) is nn.Embedding:
            return made
        kept = {k: v for k, v in old.__dict__.items() if k not in ("_parameters", "_buffers")}
        buffers = {**old._buffers, **made._buffers}
        made.__dict__.update(kept, _buffers=buffers)
        made._non_persistent_buffers_set = {*old._non_persistent_buffers_set, "_like"}
        made.__class__ = _over_packed(type(old))
        return made

    def forward(self, ids: Tensor) -> Tensor:
        """ids int64, any shape; returns [*ids.shape, width]."""
        return packed.rows(self.layout, self.tensors, ids).to(self._like.dtype)

    def extra_repr(self) -> str:
        return _Holder.extra_repr(self)


class TiedLinear(nn.Module):
    """A head that multiplies with the matrix of a packed embedding, and stores none of its own.

    Args:
        source: the embedding; it is not a child of this module, and is saved and moved by its own
            parent only.
        bias: [out], or None.
    """

    bias: nn.Parameter | None

    def __init__(self, source: PackedEmbedding, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self._source = (source,)  # a tuple hides it from the registration of submodules
        self.out_features, self.in_features = source.layout["shape"]
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> Tensor:
        """Shape and dtype of the embedding's matrix, without memory."""
        return self._source[0].weight

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in], floating; returns [..., out] in x's dtype."""
        source = self._source[0]
        y = packed.matmul(source.layout, source.tensors, x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return self._source[0].extra_repr()


def _over_packed(kind: type[nn.Embedding]) -> type[PackedEmbedding]:
    """The class `kind` with PackedEmbedding between it and nn.Embedding."""
    return type(f"Packed{kind.__name__}", (kind, PackedEmbedding), {})


def _shadow(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    shadow = torch.empty(shape, dtype=dtype, device="meta")
    # transformers initializes every weight that lacks this mark.
    shadow._is_hf_initialized = True  # type: ignore[attr-defined]
    return shadow
