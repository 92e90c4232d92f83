"""The network of an ONNX file as a module of torch: layers that can be cut, steps between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sprue.errors import InputError
from sprue.formats.onnx_build import Builder
from sprue.formats.onnx_file import array_of, line_of, load, opset_of
from sprue.formats.onnx_steps import KNOWN, Step, hard_swished, perform, value_of
from sprue.formats.onnx_values import DTYPES, Op, tensor

Shape = tuple[int | None, ...]

_TRIED = (2, 16), (1, 16), (2, 8), (1, 8)  # examples and tokens: few tables have fewer positions
_APART = 1e-3  # of the largest output: other sizes of a batch add up in other orders


class OnnxModule(nn.Module):
    """A network in eval mode, float32.

    Attributes:
        input_names: in the order of the arguments.
        input_shapes: as the file states them; None: any size.
        input_dtypes: of the arguments.
        output_names: in the order of the results.
        fixed_batch: the network only runs on as many examples at once as the file says.
    """

    def __init__(
        self,
        names: Sequence[str],
        shapes: Sequence[Shape],
        dtypes: Sequence[torch.dtype],
        outputs: Sequence[str],
    ) -> None:
        super().__init__()
        self.input_names, self.input_shapes = tuple(names), tuple(shapes)
        self.input_dtypes, self.output_names = tuple(dtypes), tuple(outputs)
        self.fixed_batch = True
        self._steps: tuple[Step, ...] = ()
        self._held: dict[str, Any] = {}

    def forward(self, *inputs: Tensor) -> Any:
        """Outputs for inputs, by position: a tensor, or several in a tuple."""
        if len(inputs) != len(self.input_names):
            raise InputError(
                f"expected {len(self.input_names)} inputs ({', '.join(self.input_names)}), got "
                f"{len(inputs)}"
            )
        values: dict[str, Any] = dict(zip(self.input_names, inputs, strict=True))
        for step in self._steps:
            given = perform(step, self, [value_of(s, self, values) for s in step.inputs])
            if len(step.outputs) == 1:
                values[step.outputs[0]] = given
            else:
                values.update(zip(step.outputs, given, strict=False))
            for name in step.done:
                values.pop(name, None)
        found = tuple(
            tensor(values[n]) if n in values else self._held[n] for n in self.output_names
        )
        return found[0] if len(found) == 1 else found

    @property
    def silus(self) -> int:
        """How many SiLU it runs."""
        return hard_swished(self._steps, self.output_names)[1]

    def harden(self) -> None:
        """HardSwish in the place of each SiLU."""
        self._steps = tuple(hard_swished(self._steps, self.output_names)[0])


def read_onnx(path: str | Path) -> OnnxModule:
    """The network of a file.

    Raises:
        InputError: no such file, what is no ONNX or damaged, a version or operators that are not
            known here, a quantized network, control flow, or `onnx` is missing.
    """
    file = Path(path)
    model = load(file, KNOWN)
    with torch.no_grad():
        try:
            return _module(model, file)
        except InputError as error:
            told = str(error)
            raise InputError(told if str(file) in told else f"{file}: {told}") from error


def _module(model: Any, path: Path) -> OnnxModule:
    graph = model.graph
    weights = {t.name: array_of(t, path) for t in graph.initializer}
    entering = [i for i in graph.input if i.name not in weights]
    outputs = [o.name for o in graph.output]
    ops = [_op(n, opset_of(model), path) for n in graph.node]
    shapes = [_shape(i) for i in entering]
    dtypes = [DTYPES.get(i.type.tensor_type.elem_type, torch.float32) for i in entering]
    if not entering:
        raise InputError(f"{path} has no inputs: expected a network")
    reason: InputError | None = None
    for batch, tokens in _TRIED:
        module = OnnxModule([i.name for i in entering], shapes, dtypes, outputs).eval()
        example = _examples(module, (batch, tokens), ops, graph.node, weights)
        try:
            builder = Builder(module, dict(weights), ops, graph.node, outputs)
            steps = builder.build(dict(zip(module.input_names, example, strict=True)))
        except InputError as error:
            reason = reason or error
            continue
        except Exception as error:  # nodes that lack inputs, attributes of another kind
            raise InputError(f"{path} has a node that makes no sense: {line_of(error)}") from error
        module._steps = tuple(steps)
        module._held = builder.held(outputs)
        module.fixed_batch = not _any_batch(module, example)
        return module
    assert reason is not None
    raise reason


def _examples(
    module: OnnxModule,
    usual: tuple[int, int],
    ops: Sequence[Op],
    nodes: Sequence[Any],
    weights: dict[str, Any],
) -> tuple[Tensor, ...]:
    """Something of the shapes that the file states; so many examples and tokens where it states
    no number."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for name, shape, dtype in zip(
        module.input_names, module.input_shapes, module.input_dtypes, strict=True
    ):
        channels = _channels(name, ops, nodes, weights)
        image = len(shape) == 4
        first = {0: usual[0], 1: channels if image else usual[1]}
        rest = 224 if image else usual[1]
        sizes = [n or first.get(d, rest) for d, n in enumerate(shape)]
        found.append(_noise(sizes, dtype, generator))
    return tuple(found)


def _channels(name: str, ops: Sequence[Op], nodes: Sequence[Any], weights: dict[str, Any]) -> int:
    """What the first convolution of an input reads; else colors."""
    for op, node in zip(ops, nodes, strict=True):
        names = [*node.input, "", ""]
        if op.kind == "Conv" and names[0] == name and names[1] in weights:
            return int(weights[names[1]].shape[1] * op.get("group", 1))
    return 3


def _noise(sizes: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Normal numbers; of integers zeros and ones, which are rows of any table, the first a one."""
    if dtype.is_floating_point:
        return torch.randn(*sizes, generator=generator)
    found = torch.randint(2, tuple(sizes), generator=generator)
    if found.dim() > 1:
        found[:, 0] = 1
    return found.to(dtype)


def _any_batch(module: OnnxModule, example: Sequence[Tensor]) -> bool:
    """Whether two examples at once are answered as each of them alone."""
    generator = torch.Generator().manual_seed(1)
    if any(x.dim() == 0 for x in example):
        return False
    two = [_noise([2, *x.shape[1:]], x.dtype, generator) for x in example]
    try:
        both = _several(module(*two))
        alone = [_several(module(*(x[i : i + 1] for x in two))) for i in range(2)]
    except Exception:  # shapes that do not fit: that is the answer
        return False
    return all(
        _alike(a, torch.cat(parts)) if a.dim() and parts[0].dim() else False
        for a, *parts in zip(both, *alone, strict=True)
    )


def _several(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _alike(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    x, y = a.double().nan_to_num(), b.double().nan_to_num()
    return (
        bool((x - y).abs().max() <= _APART * x.abs().max().clamp(min=1e-12)) if a.numel() else True
    )


def _shape(entering: Any) -> Shape:
    dims = entering.type.tensor_type.shape.dim
    return tuple(int(d.dim_value) if d.dim_value > 0 else None for d in dims)


def _op(node: Any, opset: int, path: Path) -> Op:
    found = {a.name: _attribute(a, path) for a in node.attribute}
    name = node.name or (node.output[0] if node.output else "")
    return Op(node.op_type, opset, found, len(node.output), name)


def _attribute(attribute: Any, path: Path) -> Any:
    from onnx import helper

    if attribute.HasField("t"):
        return array_of(attribute.t, path)
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return list(value) if not isinstance(value, (int, float, str)) else value
