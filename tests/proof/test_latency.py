"""Two calls timed in turns, and the memory of a network in a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sprue.errors import InputError
from sprue.formats.onnx_export import to_onnx
from sprue.proof import latency, resident


def test_calls_take_turns_and_the_first_of_a_round_changes() -> None:
    seen: list[str] = []
    found = latency.measure(
        lambda: seen.append("a"), lambda: seen.append("b"), rounds=4, seconds=1e-9
    )
    assert found.calls >= 1
    rounds = "".join(seen[2 * 3 :])  # after those that warm up
    assert rounds == ("ab" * 1 + "ba" * 1) * 2 if found.calls == 1 else len(rounds) > 8
    assert found.ratio.low <= found.ratio.value <= found.ratio.high


def test_a_call_that_does_twice_as_much_takes_about_twice_as_long() -> None:
    """By a clock of our own: no real time decides."""
    clock = [0.0]

    def work(seconds: float) -> None:
        clock[0] += seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sprue.proof.latency.time.perf_counter", lambda: clock[0])
        patch.setattr("sprue.proof.latency.time.process_time", lambda: 2 * clock[0])
        found = latency.measure(lambda: work(0.01), lambda: work(0.02), rounds=7)
    assert found.ratio.value == pytest.approx(2.0)
    assert found.cpu_ratio.value == pytest.approx(2.0)
    assert found.original.seconds == pytest.approx(0.01)
    assert found.result.cpu_seconds == pytest.approx(0.04)
    assert found.calls == 2  # 40 ms of the slower one


def test_memory_is_that_of_a_process_which_loads_the_network(tmp_path: Path) -> None:
    layer = nn.Linear(2000, 2000)
    to_onnx(layer.eval(), (torch.zeros(2, 2000),), ("x",), ((0,),), tmp_path / "m.onnx")
    one = [np.zeros((1, 2000), np.float32)]
    found = resident.measure(tmp_path / "m.onnx", ["x"], one, "onnxruntime", 1)
    assert found.own_bytes > 0.8 * 4 * 2000 * 2000
    assert found.peak_bytes == found.baseline_bytes + found.own_bytes
    with pytest.raises(InputError, match="could not be measured"):
        resident.measure(tmp_path / "none.onnx", ["x"], one, "onnxruntime", 1)
