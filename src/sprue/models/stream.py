"""A model run block by block: one block's weights in memory, the activations between blocks kept.

The model's own forward does everything around the blocks. Each block is replaced by a stand-in
that records what the forward hands it (masks, position embeddings, per-layer kinds); the real
block is loaded, run with the same arguments, and dropped. So nothing of an architecture is
written here a second time.
"""

from __future__ import annotations

import copy
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from sprue.errors import InputError, ResourceError
from sprue.models import skeleton
from sprue.models.source import Source

Taps = Mapping[str, Callable[[Tensor], None]]


class _EnoughError(Exception):
    """Every tap of this batch was served: the rest of the block need not run."""


class _StandIn(nn.Module):
    """In place of a block: keeps what it is called with, returns its input or `feed`."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.__dict__["_block"] = block  # hidden from nn.Module: its weights are not ours
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.seen: Tensor | None = None
        self.feed: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        """What a forward may ask of a block ("attention_type")."""
        return getattr(self.__dict__["_block"], name)

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.seen, self.args, self.kwargs = hidden, args, kwargs
        return hidden if self.feed is None else self.feed


class Stream:
    """The blocks of a model, one at a time, over a set of token windows.

    Args:
        source: the model.
        ids: [windows, context] int64 token ids.
        batch: windows per forward.
        device: where blocks run ("cpu", "cuda"); activations wait on the CPU.
        replaced: tensor name -> matrix used in place of the source's (embedding, head, norms).
        resident: bytes of activations beyond which they live in a file; None = always in memory.
        scratch: folder of that file; None = the system's folder for temporary files.

    Attributes:
        blocks: number of blocks.

    Raises:
        InputError: ids outside the vocabulary, or windows longer than the learned positions.
    """

    def __init__(
        self,
        source: Source,
        ids: Tensor,
        batch: int = 8,
        device: str | torch.device = "cpu",
        *,
        replaced: Mapping[str, Tensor] | None = None,
        resident: int | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.source, self.ids, self.batch = source, ids, batch
        self.device = torch.device(device)
        self._replaced = dict(replaced or {})
        self._resident, self._scratch = resident, scratch
        self._maps: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
        _check_ids(source, ids)
        self._build()

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self._real)

    @cached_property
    def hidden(self) -> Tensor:
        """`embed()` of the windows, made once; give it as `out` of `run` to advance it in place."""
        return self.embed()

    @torch.no_grad()
    def embed(self) -> Tensor:
        """What the first block receives, [windows, context, hidden] float32, newly allocated.

        Only the rows of the embedding that the ids name are read.
        """
        hidden = self.allocate()
        for part, _, entering in self.lookups():
            hidden[part] = entering
            self.settle(hidden)
        return hidden

    def lookups(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Batch by batch: the windows, the embedding's row of each token, what block 0 receives.

        The rows are [tokens, width], one for each token even if tokens share an id; what block 0
        receives, [b, context, hidden], is differentiable in them.
        """
        order, local = torch.unique(self.ids, return_inverse=True)
        table, rows = skeleton.embedding(self._model), self._rows(order)
        try:
            for part in self.parts(self.ids):
                self._assign(table, "weight", rows[local[part].flatten()])
                places = torch.arange(local[part].numel(), device=self.device)
                row_of_token = table.weight.requires_grad_()
                self._inner(input_ids=places.view_as(local[part]))
                yield part, row_of_token, cast(Tensor, self._stands[0].seen).to("cpu")
        finally:
            self._drop(table)
            self._forget()

    @torch.no_grad()
    def load(self, i: int) -> nn.Module:
        """Block `i` of the real class with the source's weights, float32, eval.

        Raises:
            InputError: NaN or infinite weights, or a file that became shorter.
        """
        block = copy.deepcopy(self._real[i], {id(self._model.config): self._model.config})
        prefix = self.source.family.block(i)
        for name, module in block.named_modules():
            self._fill(module, ".".join(filter(None, (prefix, name))))
        return block

    @torch.no_grad()
    def run(
        self,
        block: nn.Module,
        i: int,
        hidden: Tensor,
        taps: Taps | None = None,
        *,
        out: Tensor | None = None,
    ) -> Tensor:
        """Block `i` over `hidden` [windows, context, hidden]; the result has its shape.

        Args:
            block: from `load(i)`, its matrices changed or not.
            i: which block: decides masks and position embeddings.
            hidden: float32 activations of any number of windows.
            taps: local name of a linear -> callback, called once a batch with the linear's input
                [tokens, in] float32, which it may read and must not keep.
            out: where the result goes; `hidden` itself overwrites in place; None allocates.
        """
        out = self.allocate(len(hidden)) if out is None else out
        with _Tapped(block, taps or {}):
            for part in self.parts(hidden):
                out[part] = self.step(block, i, hidden[part])
                self.settle(hidden)
                self.settle(out)
        return out

    @torch.no_grad()
    def observe(self, block: nn.Module, i: int, hidden: Tensor, taps: Taps) -> None:
        """As `run`, for the taps alone: no output, and a batch ends once all taps were served."""
        with _Tapped(block, taps, stop=True):
            for part in self.parts(hidden):
                with suppress(_EnoughError):
                    self.step(block, i, hidden[part])
                self.settle(hidden)

    def step(self, block: nn.Module, i: int, hidden: Tensor) -> Tensor:
        """Block `i` over one batch [b, context, hidden]: differentiable in `hidden`."""
        args, kwargs = self._calls[i]
        result = block(hidden.to(self.device), *args, **kwargs)
        return cast(Tensor, result[0] if isinstance(result, tuple) else result).to("cpu")

    def parts(self, hidden: Tensor) -> Iterator[slice]:
        """The batches of `hidden`, in order."""
        if hidden.shape[1] != self.ids.shape[1]:
            raise ValueError(f"expected windows of {self.ids.shape[1]}, got {hidden.shape[1]}")
        for first in range(0, len(hidden), self.batch):
            yield slice(first, min(first + self.batch, len(hidden)))

    def logits(self, hidden: Tensor) -> Tensor:
        """[b, n, vocab] float32 from the last block's output [b, n, hidden], n <= context.

        The final norm, the head and any scaling or capping are the model's own. The head is read
        at the first call and stays until `release()`. Differentiable in `hidden`.
        """
        self._hold_head()
        width = skeleton.embedding(self._model).embedding_dim
        nothing = torch.zeros(*hidden.shape[:2], width, device=self.device)
        self._stands[-1].feed = hidden.to(self.device)
        try:
            return cast(Tensor, self._model(inputs_embeds=nothing, use_cache=False).logits)
        finally:
            self._forget()

    @property
    def head(self) -> nn.Module:
        """The output layer; its matrix is there from a call of `logits` to `release()`."""
        return skeleton.head(self._model)

    def release(self) -> None:
        """Give the head's memory back; the next `logits` reads it again."""
        self._drop(skeleton.head(self._model))

    def allocate(self, windows: int | None = None) -> Tensor:
        """Room for activations, [windows, context, hidden] float32, in memory or in a file.

        Raises:
            ResourceError: the file does not fit on the disk.
        """
        count = len(self.ids) if windows is None else windows
        shape = (count, self.ids.shape[1], int(self.source.config.hidden_size))
        size = 4 * shape[0] * shape[1] * shape[2]
        if self._resident is None or size <= self._resident:
            return torch.empty(shape)
        mapped = _mapped(size, self._scratch)
        tensor = torch.frombuffer(mapped, dtype=torch.float32).reshape(shape)
        self._maps[tensor.data_ptr()] = mapped
        return tensor

    def settle(self, hidden: Tensor) -> None:
        """Give back the pages of a file that were touched: they are not working memory."""
        mapped = self._maps.get(hidden.data_ptr())
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)

    def _build(self) -> None:
        self._model = skeleton.skeleton(self.source.config)
        # no window is padded, and ids are renumbered in `lookups`: the pad id means nothing here
        self._model.config.pad_token_id = None
        skeleton.embedding(self._model).padding_idx = None
        blocks = cast(nn.ModuleList, self._model.get_submodule(self.source.family.blocks))
        self._real = list(blocks)
        self._stands = [_StandIn(block) for block in self._real]
        for i, stand in enumerate(self._stands):
            blocks[i] = stand
        outer = (self.source.family.embedding, self.source.family.head)
        for name, module in self._model.named_modules():
            self._fill(module, name, weights=name not in outer)
        self._record()

    @torch.no_grad()
    def _record(self) -> None:
        """One forward of one window of zeros: the arguments of every block.

        Nothing in them depends on tokens, and a batch of one broadcasts over any batch.
        """
        width = skeleton.embedding(self._model).embedding_dim
        self._inner(inputs_embeds=torch.zeros(1, self.ids.shape[1], width, device=self.device))
        self._calls = [(stand.args, stand.kwargs) for stand in self._stands]

    def _inner(self, **inputs: Tensor) -> None:
        """The model up to its final norm, with stand-ins for blocks."""
        self._model.base_model(**inputs, use_cache=False)

    def _forget(self) -> None:
        for stand in self._stands:
            stand.seen = stand.feed = None

    def _tensor(self, name: str) -> Tensor:
        return self._replaced[name] if name in self._replaced else self.source.tensor(name)

    def _rows(self, ids: Tensor) -> Tensor:
        name = f"{self.source.family.embedding}.weight"
        table = self._replaced.get(name)
        return self.source.rows(name, ids) if table is None else table[ids]

    def _hold_head(self) -> None:
        module = skeleton.head(self._model)
        if not module.weight.is_meta:
            return
        family = self.source.family
        owner = family.embedding if self.source.tied else family.head
        self._assign(module, "weight", self._tensor(f"{owner}.weight"))
        if module.bias is not None:
            self._assign(module, "bias", self._tensor(f"{family.head}.bias"))

    def _fill(self, module: nn.Module, prefix: str, weights: bool = True) -> None:
        """Give one module (not its children) its weights and its computed buffers."""
        if weights:
            for name, _ in [*module.named_parameters(recurse=False), *_stored_buffers(module)]:
                self._assign(module, name, self._tensor(f"{prefix}.{name}"))
        if module._non_persistent_buffers_set:
            self._compute_buffers(module)

    def _compute_buffers(self, module: nn.Module) -> None:
        """Buffers that no checkpoint holds (rotary frequencies, embedding scale).

        The model's own initialization makes them, as in from_pretrained; parameters are flagged
        as done, which keeps it from touching them or the random generator.
        """
        for name in module._non_persistent_buffers_set:
            buffer = cast(Tensor, getattr(module, name))
            setattr(module, name, torch.empty_like(buffer, device=self.device))
        for parameter in module.parameters(recurse=False):
            parameter._is_hf_initialized = True  # type: ignore[attr-defined]
        with torch.no_grad():
            self._model._init_weights(module)

    def _assign(self, module: nn.Module, name: str, value: Tensor) -> None:
        dense = value.to(self.device, torch.float32)
        if name in module._parameters:
            module._parameters[name] = nn.Parameter(dense, requires_grad=False)
        else:
            module._buffers[name] = dense

    def _drop(self, module: nn.Module) -> None:
        for name, parameter in list(module.named_parameters(recurse=False)):
            module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)


class _Tapped:
    """Callbacks on the inputs of linears, for the time of a `with`."""

    def __init__(self, block: nn.Module, taps: Taps, stop: bool = False) -> None:
        self._block, self._taps, self._stop = block, taps, stop
        self._served: set[str] = set()

    def __enter__(self) -> None:
        self._hooks = [
            self._block.get_submodule(local).register_forward_pre_hook(self._hook(local, tap))
            for local, tap in self._taps.items()
        ]

    def __exit__(self, *exception: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _hook(
        self, local: str, tap: Callable[[Tensor], None]
    ) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def serve(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            tap(inputs[0].reshape(-1, inputs[0].shape[-1]))
            self._served.add(local)
            if self._stop and len(self._served) == len(self._taps):
                self._served.clear()
                raise _EnoughError

        return serve


def _stored_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    hidden = module._non_persistent_buffers_set
    return [(n, b) for n, b in module.named_buffers(recurse=False) if n not in hidden]


def _check_ids(source: Source, ids: Tensor) -> None:
    if ids.ndim != 2 or 0 in ids.shape:
        raise InputError(f"expected token ids [windows, context], received {list(ids.shape)}")
    rows = source.shape(f"{source.family.embedding}.weight")[0]
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= rows:
        raise InputError(
            f"token ids run from {low} to {high}, the model has {rows}: the tokenizer belongs to "
            "another model"
        )
    if source.family.positions is None:
        return
    limit = int(source.config.max_position_embeddings)
    if ids.shape[1] > limit:
        raise InputError(
            f"windows of {ids.shape[1]} tokens, but the model has learned {limit} positions; "
            f"take a context of at most {limit}"
        )


def _mapped(size: int, scratch: Path | None) -> mmap.mmap:
    """`size` bytes of a file that has no name: it goes when the process does, however it ends."""
    try:
        with tempfile.TemporaryFile(dir=scratch) as file:
            # reserved now: a disk that fills up under a mapping kills the process
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise ResourceError(
            f"{size} bytes of activations do not fit on the disk ({error.strerror}); take fewer "
            "windows, or point TMPDIR at a larger disk"
        ) from error
