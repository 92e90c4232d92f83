"""A network that was cut learns to answer as the original does, and what is true where it is known.

The loss is the distance of the answers and, for classes that are known, the cross-entropy with
them (Hinton et al. 2015, arXiv:1503.02531, section 2); at first also the distance of a few inner
features which both networks have (FitNets: Romero et al. 2015, section 2.2). Images are mirrored,
shifted and mixed (Zhang et al. 2018, arXiv:1710.09412), and the original answers for whatever comes
of it. Networks with batch norms are trained with momentum, their statistics following; others with
AdamW.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from sprue.errors import InputError
from sprue.structure.readings import hooked

Loss = Callable[[Tensor, Tensor], Tensor]  # original's answers, the other's -> mean over examples
UNKNOWN = -100

_HELD = 0.1  # of the examples, that show whether it got better
_MOST_HELD = 256
_FEATURES = 4  # inner points that are compared
_FEATURE_WEIGHT = 1.0  # at the start; none of it is left halfway
_MOMENTUM_RATE, _ADAM_RATE = 0.02, 3e-4
_WARM = 0.03  # share of the schedule
_CLIP = 1.0
_AVERAGED = 0.999  # of the weights, from step to step
_SAVED = 30.0  # seconds between two states
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Taught:
    """What came of it.

    Attributes:
        model: the better of what was trained, its average over the steps, and the start.
        steps: that were taken.
        seconds: that they took.
        before, after: loss on examples that were held.
        which: "trained", "averaged" or "start".
    """

    model: nn.Module
    steps: int
    seconds: float
    before: float
    after: float
    which: str


@dataclass(frozen=True)
class Lessons:
    """How a network is taught.

    Attributes:
        loss: distance of answers.
        seconds: by the clock; None: `steps`.
        steps: so many, the same bytes every time; None: `seconds`.
        batch: examples of a step.
        mixed: whether inputs are images that may be mirrored, shifted and mixed.
        truth: the true class of each example, int64 [examples], or of each of its tokens, int64
            [examples, tokens]; UNKNOWN where none is. None: of no example.
        seed: of batches and of what is done to them.
        state: where to save what going on takes; None: nowhere.
    """

    loss: Loss
    seconds: float | None = None
    steps: int | None = None
    batch: int = 64
    mixed: bool = False
    truth: Tensor | None = None
    seed: int = 0
    state: Path | None = None

    def __post_init__(self) -> None:
        given = [limit for limit in (self.seconds, self.steps) if limit is not None]
        if len(given) != 1 or not given[0] > 0 or not math.isfinite(given[0]):
            raise InputError(
                f"expected seconds or steps of training above 0, got {self.seconds} and "
                f"{self.steps}"
            )


def teach(
    original: nn.Module,
    student: nn.Module,
    inputs: tuple[Tensor, ...],
    lessons: Lessons,
    progress: Callable[[float], object] = lambda done: None,
) -> Taught:
    """Train a network to answer as the original.

    Args:
        original: in eval mode; stays.
        student: what was cut from it; stays as well, a copy is trained.
        inputs: arguments of both, the first dimension the examples; a tenth is held.
        lessons: how.
        progress: called after every step with the share that is done.

    Raises:
        InputError: too few examples, or training that diverges.
    """
    count = len(inputs[0])
    if count < 4:
        raise InputError(f"expected at least 4 examples to train with, got {count}")
    if lessons.truth is not None and len(lessons.truth) != count:
        raise InputError(f"expected what is true of {count} examples, got {len(lessons.truth)}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(lessons.seed))
    held = order[: min(_MOST_HELD, max(2, round(_HELD * count)))]
    course = _Course(original, copy.deepcopy(student), inputs, order[len(held) :], lessons)
    course.resume()
    while course.done < 1:
        course.advance()
        progress(min(1.0, course.done))
    if lessons.state is not None:
        course.save()
    return _best(course, student, held)


def _best(course: _Course, start: nn.Module, held: Tensor) -> Taught:
    candidates = {
        "start": start,
        "trained": course.student.eval(),
        "averaged": course.average.eval(),
    }
    lost = {name: _lost(course, model, held) for name, model in candidates.items()}
    which = min(lost, key=lambda name: lost[name])
    model = copy.deepcopy(candidates[which]).eval()
    for parameter in model.parameters():
        parameter.grad = None
    return Taught(model, course.step, course.seconds, lost["start"], lost[which], which)


def _lost(course: _Course, model: nn.Module, held: Tensor) -> float:
    inputs, truth = tuple(x[held] for x in course.inputs), course.lessons.truth
    found = distance(course.original, model, inputs, course.lessons.loss)
    if truth is None:
        return found
    return found + _mean(lambda batch, true: against(model(*batch), true), inputs, truth[held])


def against(answer: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of logits [..., classes] with classes [...]; of what is UNKNOWN 0."""
    known = truth.flatten() != UNKNOWN
    rows = answer.flatten(0, -2)[known]
    return functional.cross_entropy(rows, truth.flatten()[known], reduction="sum") / len(known)


def distance(
    original: nn.Module, other: nn.Module, inputs: tuple[Tensor, ...], loss: Loss
) -> float:
    """Mean distance of the answers of two networks."""
    return _mean(lambda batch, _: loss(original(*batch), other(*batch)), inputs, inputs[0])


@torch.no_grad()
def _mean(
    loss: Callable[[tuple[Tensor, ...], Tensor], Tensor],
    inputs: tuple[Tensor, ...],
    beside: Tensor,
    batch: int = 32,
) -> float:
    """Of what a loss says of batches of inputs, and of what stands beside them; or infinity."""
    total, count = 0.0, len(inputs[0])
    for start in range(0, count, batch):
        some = slice(start, start + batch)
        value = loss(tuple(x[some] for x in inputs), beside[some])
        total += float(value) * len(beside[some])
    found = total / count
    return found if math.isfinite(found) else math.inf


@dataclass
class _Course:
    """Training under way."""

    original: nn.Module
    student: nn.Module
    inputs: tuple[Tensor, ...]
    rows: Tensor
    lessons: Lessons
    step: int = 0
    seconds: float = 0.0
    average: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.average = copy.deepcopy(self.student)
        norms = any(isinstance(m, _NORMS) for m in self.student.modules())
        self._rate = _MOMENTUM_RATE if norms else _ADAM_RATE
        self._parameters = [p.requires_grad_(True) for p in self.student.parameters()]
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(
                self._parameters, lr=self._rate, momentum=0.9, nesterov=True, weight_decay=1e-4
            )
            if norms
            else torch.optim.AdamW(self._parameters, lr=self._rate, weight_decay=0.01)
        )
        some = tuple(x[self.rows[:2]] for x in self.inputs)
        self._features = shared_features(self.original, self.student, some)
        for module in self.student.modules():  # noise of a pruned network's dropout teaches nothing
            module.train(isinstance(module, _NORMS))
        self._saved = time.monotonic()

    @property
    def done(self) -> float:
        """The share of the schedule that is behind."""
        if self.lessons.steps is not None:
            return self.step / self.lessons.steps
        return self.seconds / float(self.lessons.seconds or math.inf)

    def advance(self) -> None:
        """One step.

        Raises:
            InputError: the loss is not finite.
        """
        begin = time.monotonic()
        batch = self._batch()
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * _pace(self.done)
        loss = self._loss(*batch)
        if not math.isfinite(float(loss.detach())):
            raise InputError(
                f"training diverged in step {self.step}: its loss is {float(loss.detach())}; the "
                "weights of the original may be damaged, or the examples are not what it reads"
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, _CLIP)
        self._optimizer.step()
        self._follow()
        self.step += 1
        self.seconds += time.monotonic() - begin
        if self.lessons.state is not None and time.monotonic() - self._saved > _SAVED:
            self.save()

    def _loss(self, batch: tuple[Tensor, ...], truths: Sequence[tuple[float, Tensor]]) -> Tensor:
        weight = _FEATURE_WEIGHT * max(0.0, 1 - 2 * self.done)
        names = self._features if weight else []
        with torch.no_grad(), watched(self.original, names) as theirs:
            aim = self.original(*batch)
        with watched(self.student, names) as mine:
            answer = self.student(*batch)
        loss = self.lessons.loss(aim, answer)
        for share, truth in truths:
            loss = loss + share * against(answer, truth)
        for name in names:
            spread = theirs[name].var().clamp(min=1e-12)
            away = functional.mse_loss(mine[name], theirs[name]) / spread
            loss = loss + weight / len(names) * away
        return loss

    def _batch(self) -> tuple[tuple[Tensor, ...], list[tuple[float, Tensor]]]:
        """Examples, and what is true of which share of them; the same for the same step."""
        generator = torch.Generator().manual_seed(self.lessons.seed * 1_000_003 + self.step)
        size = min(self.lessons.batch, len(self.rows))
        rows = self.rows[torch.randperm(len(self.rows), generator=generator)[:size]]
        batch = tuple(x[rows] for x in self.inputs)
        truth = None if self.lessons.truth is None else self.lessons.truth[rows]
        if not self.lessons.mixed:
            return batch, [] if truth is None else [(1.0, truth)]
        images, other, share = mixed(batch[0], generator)
        parts = [(1 - share, truth), (share, None if truth is None else truth[other])]
        return (images, *batch[1:]), [(s, t) for s, t in parts if s and t is not None]

    @torch.no_grad()
    def _follow(self) -> None:
        """The average over the steps; short at first, so that the start is soon forgotten."""
        kept = min(_AVERAGED, (1 + self.step) / (10 + self.step))
        pairs = zip(_tensors(self.average), _tensors(self.student), strict=True)
        for mine, theirs in pairs:
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - kept)
            else:
                mine.copy_(theirs)

    def save(self) -> None:
        """What going on takes, whole or not at all."""
        assert self.lessons.state is not None
        tensors = {f"student/{i}": t for i, t in enumerate(_tensors(self.student))}
        tensors |= {f"average/{i}": t for i, t in enumerate(_tensors(self.average))}
        for i, parameter in enumerate(self._parameters):
            for key, value in self._optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{i}/{key}"] = value
        told = json.dumps({"step": self.step, "seconds": self.seconds})
        whole = self.lessons.state.with_suffix(".new")
        contiguous = {name: t.detach().contiguous().clone() for name, t in tensors.items()}
        save_file(contiguous, whole, {"told": told})
        whole.replace(self.lessons.state)
        self._saved = time.monotonic()

    @torch.no_grad()
    def resume(self) -> None:
        """Go on from what was saved, if anything was."""
        state = self.lessons.state
        if state is None or not state.is_file():
            return
        from safetensors import safe_open

        with safe_open(state, "pt") as file:
            told = json.loads(file.metadata()["told"])
        tensors = load_file(state)
        for kind, model in (("student", self.student), ("average", self.average)):
            for i, tensor in enumerate(_tensors(model)):
                tensor.copy_(tensors[f"{kind}/{i}"])
        for i, parameter in enumerate(self._parameters):
            mine = {
                name.split("/")[2]: tensor
                for name, tensor in tensors.items()
                if name.startswith(f"optimizer/{i}/")
            }
            if mine:
                self._optimizer.state[parameter] = mine
        self.step, self.seconds = int(told["step"]), float(told["seconds"])


def _pace(done: float) -> float:
    """Of the highest rate: a linear warm-up, then a cosine."""
    if done < _WARM:
        return 0.02 + 0.98 * done / _WARM
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - _WARM) / (1 - _WARM))))


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def mixed(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Half of them mirrored, all shifted by up to an eighth, half of the batches mixed in pairs.

    Args:
        images: float [n, channels, height, width].

    Returns:
        Images of that shape; with which others they are mixed, int64 [n], and the share of those.
    """
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    height, width = images.shape[-2:]
    reach = height // 8, width // 8
    padded = functional.pad(images, (reach[1], reach[1], reach[0], reach[0]), mode="replicate")
    shifts = torch.rand(len(images), 2, generator=generator)
    found = []
    for image, (down, right) in zip(padded, shifts.tolist(), strict=True):
        top, left = int(down * (2 * reach[0] + 1)), int(right * (2 * reach[1] + 1))
        found.append(image[:, top : top + height, left : left + width])
    images = torch.stack(found)
    draw = torch.rand(2, generator=generator)
    other = torch.randperm(len(images), generator=generator)
    share = 0.5 * float(draw[1]) if draw[0] < 0.5 else 0.0
    if share:
        images = (1 - share) * images + share * images[other]
    return images, other, share


def shared_features(
    original: nn.Module, student: nn.Module, inputs: tuple[Tensor, ...], count: int = _FEATURES
) -> list[str]:
    """Modules whose outputs have one shape in both networks, spread over their depth.

    Only those that hold others are taken, which are the blocks of most networks: what stands inside
    of them is where a cut network may go its own way.
    """
    found: list[dict[str, tuple[int, ...]]] = []
    for model in (original, student):
        shapes: dict[str, tuple[int, ...]] = {}

        def ran(
            name: str,
            module: nn.Module,
            _: Any,
            output: Any,
            shapes: dict[str, tuple[int, ...]] = shapes,
        ) -> None:
            blocks = name and any(True for _ in module.children())
            if blocks and isinstance(output, Tensor) and output.dim() > 2:
                shapes[name] = tuple(output.shape)

        with hooked(model, ran), torch.no_grad():
            model(*inputs)
        found.append(shapes)
    same = [name for name, shape in found[0].items() if found[1].get(name) == shape]
    if len(same) <= count:
        return same
    return [same[round((i + 1) * len(same) / count) - 1] for i in range(count)]


@contextmanager
def watched(model: nn.Module, names: Sequence[str]) -> Iterator[Mapping[str, Tensor]]:
    """Within a `with`: the outputs of these modules, once the network has run."""
    outputs: dict[str, Tensor] = {}
    hooks = []
    for name in names:

        def take(_: nn.Module, __: Any, output: Tensor, name: str = name) -> None:
            outputs[name] = output

        hooks.append(model.get_submodule(name).register_forward_hook(take))
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
