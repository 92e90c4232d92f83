"""A tiny model on its way through the plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from sprue import models
from sprue.models import Stream, Writer
from sprue.plan import artifact, design
from sprue.plan import walk as walk_module
from sprue.plan.ledger import Record
from sprue.plan.recipe import Recipe
from sprue.plan.survey import survey
from sprue.plan.walk import Walk
from sprue.weights import packed, target

WINDOWS, CONTEXT, BITS = 6, 16, 2.5


@pytest.fixture(scope="session")
def windows() -> Tensor:
    """Token ids of a few windows."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(3, 96, (WINDOWS, CONTEXT), generator=generator)


@pytest.fixture(scope="session")
def surveyed(speaking: Callable[..., Path], windows: Tensor) -> Callable[[str], Any]:
    """name -> source, its matrices and its survey; made once."""
    made: dict[str, SimpleNamespace] = {}

    def of(name: str) -> SimpleNamespace:
        if name not in made:
            source = models.open(speaking(name, num_hidden_layers=2))
            found = survey(Stream(source, windows), seed=0)
            made[name] = SimpleNamespace(source=source, parts=design.matrices(source), survey=found)
        return made[name]

    return of


class Walked:
    """A finished walk and its folder.

    Attributes:
        moments: (H, C) of every group, in order.
    """

    def __init__(
        self, source: models.Source, ids: Tensor, recipe: Recipe, out: Path, **options: Any
    ) -> None:
        self.source, self.out, self.recipe = source, out, recipe
        self.moments: list[tuple[Tensor, Tensor]] = []
        self.dampings: list[tuple[int, float]] = []  # inputs, and the share of H's mean diagonal
        with pytest.MonkeyPatch.context() as patch, Writer(out) as writer:
            patch.setattr(walk_module, "correction", self._correction)
            walk = Walk(source, ids, recipe, writer, **options)
            self.records: dict[str, Record] = walk.run()
            self.carry = walk._ledger.carry
            artifact.finish(writer, source, recipe, self.records, {})
        self.tensors: dict[str, Tensor] = {}
        for file in sorted(out.glob("*.safetensors")):
            self.tensors |= load_file(file)

    def _correction(self, H: Tensor, C: Tensor, damping: float) -> Tensor:
        self.moments.append((H.clone(), C.clone()))
        self.dampings.append((len(H), damping))
        return target.correction(H, C, damping)

    def dense(self, name: str) -> Tensor:
        """The matrix of a packed module as it is stored."""
        layout = self.records[name].layout
        mine = {
            k.removeprefix(f"{name}."): v for k, v in self.tensors.items() if k.startswith(name)
        }
        return packed.dense(layout, {k: mine[k] for k in layout["tensors"]})

    def original(self) -> Any:
        """The original as `transformers` loads it."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.source.path, dtype=torch.float32).eval()

    def substituted(self) -> Any:
        """The original with the dense matrices in place of its own."""
        model = self.original()
        for name in self.records:
            module = model.get_submodule(name)
            W = self.dense(name)
            with torch.no_grad():
                module.weight.copy_(W.T if isinstance(module, Conv1D) else W)
        return model

    def loaded(self) -> Any:
        """The folder as a user loads it."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.out, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def walked() -> type[Walked]:
    """The class above."""
    return Walked


@pytest.fixture(scope="session")
def finished(
    surveyed: Callable[[str], Any], windows: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Walked]:
    """name -> a walk that spends 2.5 bits a weight; made once, read only."""
    made: dict[str, Walked] = {}

    def of(name: str) -> Walked:
        if name not in made:
            on, out = surveyed(name), tmp_path_factory.mktemp(name) / "out"
            recipe = design.for_bits(on.parts, BITS, 0, on.survey, "best")
            made[name] = Walked(on.source, windows, recipe, out, survey=on.survey)
        return made[name]

    return of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `kind` runs for models that differ in what a walk must mind."""
    kinds = ("llama", "gpt2", "gpt_neox", "phi", "opt-narrow", "granite")
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", kinds)
