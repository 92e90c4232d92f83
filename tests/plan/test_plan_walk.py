"""The walk: what is stored is what later blocks saw, and what a user loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sprue import models
from sprue.errors import InputError
from sprue.plan import design
from sprue.plan.ledger import Ledger
from sprue.plan.recipe import Recipe
from sprue.weights.choice import Choice
from sprue.weights.packed import Packed

Folder = Callable[..., Path]


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def solved(surveyed: Any, bits: float = 3.0) -> Recipe:
    return design.for_bits(surveyed.parts, bits, 0, surveyed.survey, "best")


def test_what_loads_is_what_was_packed(kind: str, finished: Any, windows: Tensor) -> None:
    """The runtime's modules against the dense matrices in the real class, biases included."""
    done = finished(kind)
    torch.testing.assert_close(
        logits(done.loaded(), windows), logits(done.substituted(), windows), atol=2e-4, rtol=2e-4
    )


def test_everything_else_is_kept_as_it_was(kind: str, finished: Any) -> None:
    done = finished(kind)
    packed = {f"{name}.weight" for name in done.recipe.tensors}
    stored = {f"{name}.{key}" for name, r in done.records.items() for key in r.layout["tensors"]}
    others = set(done.source.entries) - packed
    assert set(done.tensors) == others | stored
    for name in others:
        assert torch.equal(done.tensors[name], done.source.tensor(name))


def test_each_group_sees_what_is_packed_before_it(
    kind: str, surveyed: Any, finished: Any, windows: Tensor
) -> None:
    """H is the moment of what a linear gets in the finished model, C that against the original.

    What comes after a group does not change its input, so the finished model stands for the
    model as it was when the group was reached.
    """
    done, parts = finished(kind), surveyed(kind).parts
    before, after = (inputs(m, parts, windows) for m in (done.original(), done.substituted()))
    groups = done.source.family.groups(done.source.config)
    firsts = [
        f"{done.source.family.block(i)}.{group.linears[0]}"
        for i in range(done.source.blocks)
        for group in groups
    ]
    for (H, C), name in zip(done.moments, firsts, strict=True):
        x, y = before[name].double(), after[name].double()
        torch.testing.assert_close(H.double(), y.T @ y / len(y), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(C.double(), x.T @ y / len(y), atol=1e-3, rtol=1e-3)


def test_no_more_bits_are_taken_than_planned(kind: str, surveyed: Any, finished: Any) -> None:
    done, parts = finished(kind), surveyed(kind).parts
    linears = [done.records[name] for name in parts.linears]
    taken, weights = sum(r.bits for r in linears), sum(r.weights for r in linears)
    assert weights == parts.weights
    assert 0.98 * 2.5 < taken / weights <= 2.5
    assert done.carry >= 0


def inputs(model: Any, parts: design.Matrices, ids: Tensor) -> dict[str, Tensor]:
    """What every linear gets, [tokens, in]."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _, args: found.update({name: args[0].reshape(-1, args[0].shape[-1])})

    for name in parts.linears:
        model.get_submodule(name).register_forward_pre_hook(keep(name))
    logits(model, ids)
    return found


@pytest.mark.parametrize("flags", [(True, False), (False, True), (False, False)])
def test_aiming_and_weighing_change_what_is_stored(
    flags: tuple[bool, bool],
    surveyed: Any,
    finished: Any,
    walked: Any,
    windows: Tensor,
    tmp_path: Path,
) -> None:
    on = surveyed("llama")
    first = finished("llama")
    other = Recipe(first.recipe.tensors, shift=flags[0], importance=flags[1])
    second = walked(on.source, windows, other, tmp_path / "out", survey=on.survey)
    assert not same(first, second, "model.layers.1.mlp.down_proj")
    # the first group of the first block gets what the original gets, but for the embedding
    assert not same(first, second, "model.layers.0.self_attn.q_proj")


def same(a: Any, b: Any, name: str) -> bool:
    return torch.equal(a.dense(name), b.dense(name))


def test_aiming_makes_up_for_what_was_lost_before(
    surveyed: Any, finished: Any, walked: Any, windows: Tensor, tmp_path: Path
) -> None:
    """On the calibration windows themselves, the aimed model is nearer to the original."""
    on = surveyed("gpt_neox")
    aimed = finished("gpt_neox")
    plain = Recipe(aimed.recipe.tensors, shift=False)
    other = walked(on.source, windows, plain, tmp_path / "out", survey=on.survey)
    target = logits(aimed.original(), windows)
    near, far = (
        float((logits(d.loaded(), windows) - target).square().mean()) for d in (aimed, other)
    )
    assert near < far


def test_little_text_aims_with_care(
    surveyed: Any, walked: Any, windows: Tensor, tmp_path: Path
) -> None:
    """The ridge is the ratio of inputs to tokens where that is above the usual."""
    on, some = surveyed("llama"), windows[:1]
    least = 1.2 * 32 / some.numel()  # between the narrow inputs and the wide ones
    choice = Choice("int", 4, group_size=None, damping=least)
    recipe = Recipe(dict.fromkeys(on.parts.linears, choice), importance=False)
    seen = walked(on.source, some, recipe, tmp_path / "out").dampings
    assert {damping > least for _, damping in seen} == {True, False}
    assert seen == [(width, max(least, width / some.numel())) for width, _ in seen]


@pytest.mark.parametrize("how", ["joint", "sweep"])
def test_what_is_pruned_is_aimed_too(
    how: str, surveyed: Any, walked: Any, windows: Tensor, tmp_path: Path
) -> None:
    """On the calibration windows themselves: 16 bits beside zeros take the aim as codes do."""
    on = surveyed("llama")
    choice = Choice("raw", pattern="2:4", zeros=how)  # type: ignore[arg-type]
    tensors = dict.fromkeys(on.parts.linears, choice)
    done = [
        walked(on.source, windows, Recipe(tensors, shift=s, importance=False), tmp_path / str(s))
        for s in (True, False)
    ]
    target = logits(done[0].original(), windows)
    aimed, plain = (float((logits(d.loaded(), windows) - target).square().mean()) for d in done)
    assert aimed < plain


def test_scores_without_repair_are_those_of_the_whole_block(
    surveyed: Any, walked: Any, windows: Tensor, tmp_path: Path
) -> None:
    """Wanda's: every matrix of the first block by the inputs that the original gives it."""
    from transformers import AutoModelForCausalLM

    on = surveyed("llama")
    choice = Choice("raw", pattern="2:4", feedback=False)
    recipe = Recipe(dict.fromkeys(on.parts.linears, choice), shift=False, importance=False)
    done = walked(on.source, windows, recipe, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(on.source.path, dtype=torch.float32).eval()
    seen: dict[str, Tensor] = {}
    names = [name for name in on.parts.linears if ".layers.0." in name]
    for name in names:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: seen.update({name: args[0].flatten(0, 1)})
        )
    logits(model, windows)
    for name in names:
        W = model.get_submodule(name).weight.detach()
        score = (W.abs() * seen[name].square().mean(0).sqrt()).unflatten(1, (-1, 4))
        best = torch.zeros_like(score).scatter_(2, score.topk(2, 2).indices, 1.0).flatten(1)
        assert torch.equal(done.dense(name) != 0, best != 0)


def test_what_a_recipe_does_not_name_stays(
    kind: str, surveyed: Any, walked: Any, windows: Tensor, tmp_path: Path
) -> None:
    on = surveyed(kind)
    names = [*on.parts.outer, *on.parts.linears][1::3]
    recipe = Recipe({name: Choice("int", 4, group_size=None) for name in names}, importance=False)
    done = walked(on.source, windows, recipe, tmp_path / "out")
    assert set(done.records) == set(names)
    torch.testing.assert_close(
        logits(done.loaded(), windows), logits(done.substituted(), windows), atol=2e-4, rtol=2e-4
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_raw_matrices_are_stored_as_they_were(
    dtype: torch.dtype, speaking: Folder, walked: Any, windows: Tensor, tmp_path: Path
) -> None:
    source = models.open(speaking("llama", dtype))
    names = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"]
    recipe = Recipe({names[0]: Choice("int", 2), names[1]: Choice("raw")}, importance=False)
    done = walked(source, windows, recipe, tmp_path / "out")
    stored = done.tensors[f"{names[1]}.weight"]
    assert stored.dtype == dtype
    assert torch.equal(stored, source.tensor(f"{names[1]}.weight"))


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_do_not_change_the_bytes(
    threads: int, surveyed: Any, finished: Any, walked: Any, windows: Tensor, tmp_path: Path
) -> None:
    on = surveyed("llama")
    one = finished("llama")
    many = walked(on.source, windows, one.recipe, tmp_path / "o", survey=on.survey, threads=threads)
    assert sorted(one.tensors) == sorted(many.tensors)
    assert all(torch.equal(one.tensors[name], many.tensors[name]) for name in one.tensors)


def test_the_size_of_a_batch_hardly_matters(
    surveyed: Any, walked: Any, windows: Tensor, tmp_path: Path
) -> None:
    on = surveyed("gpt2")
    recipe = solved(on, 6.0)
    one, many = (
        walked(on.source, windows, recipe, tmp_path / str(n), survey=on.survey, batch=n)
        for n in (1, 6)
    )
    a, b = (logits(done.loaded(), windows) for done in (one, many))
    scale = logits(one.original(), windows).std()
    assert float((a - b).abs().mean()) < 0.1 * float(scale)


def test_activations_in_files_give_the_same_bytes(
    surveyed: Any, finished: Any, walked: Any, windows: Tensor, tmp_path: Path
) -> None:
    on = surveyed("opt-narrow")
    inside = finished("opt-narrow")
    outside = walked(
        on.source, windows, inside.recipe, tmp_path / "out", survey=on.survey, resident=0
    )
    assert all(torch.equal(inside.tensors[n], outside.tensors[n]) for n in inside.tensors)


def test_an_exact_walk_grants_nothing(
    surveyed: Any, walked: Any, windows: Tensor, tmp_path: Path
) -> None:
    on = surveyed("llama")
    done = walked(on.source, windows, solved(on), tmp_path / "o", survey=on.survey, exact=True)
    assert {name: r.choice for name, r in done.records.items()} == done.recipe.tensors


def test_what_cannot_be_packed_is_named(
    surveyed: Any, walked: Any, windows: Tensor, tmp_path: Path
) -> None:
    on = surveyed("llama")
    recipe = Recipe({"model.layers.1.mlp.up_proj": Choice(bits=0.1)})
    with pytest.raises(InputError, match=r"^model\.layers\.1\.mlp\.up_proj: .* give it more"):
        walked(on.source, windows, recipe, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(0.5, 8), st.floats(0, 1)), max_size=30),
    st.booleans(),
)
def test_the_ledger_never_exceeds_what_was_planned(
    matrices: list[tuple[int, float, float]], exact: bool
) -> None:
    ledger, planned, taken = Ledger(exact), 0.0, 0.0
    for weights, bits, share in matrices:
        choice = Choice(bits=bits)
        granted = ledger.grant(choice, weights)
        assert bits <= granted.bits <= bits + 0.25
        result = _Taken(weights, int(granted.bits * weights * share))
        ledger.book(choice, result)
        planned, taken = planned + bits * weights, taken + result.bits
        assert taken <= planned * (1 + 1e-12)
        assert ledger.carry == pytest.approx(planned - taken, abs=1e-3)


class _Taken(Packed):
    """Stands in for a packed matrix: only its account matters."""

    def __init__(self, weights: int, taken: int) -> None:
        super().__init__((weights, 1), {}, {}, 0.0)
        self.__dict__["taken"] = taken

    @property
    def bits(self) -> int:
        return int(self.__dict__["taken"])


def test_grids_of_fixed_rates_stay_out_of_the_ledger() -> None:
    ledger = Ledger(carry=1e6)
    choice = Choice("int", 4)
    assert ledger.grant(choice, 10) is choice
    ledger.book(choice, _Taken(10, 5))
    assert ledger.carry == 1e6
