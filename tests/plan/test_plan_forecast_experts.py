"""What is said before a conversion to experts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sprue import models
from sprue.plan import forecast_experts
from sprue.plan.distill import Schedule
from sprue.plan.forecast_experts import at_once, forecast, forecast_drop


def test_a_distillation_takes_both_models_and_what_learns(
    base6m: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast_experts, "flops_per_second", lambda: 5e10)
    source, ids = models.open(base6m), (128, 256)
    weights = source.nbytes // 2
    plain = forecast(source, ids, None)
    taught = forecast(source, ids, Schedule(seconds=600.0))
    # teacher, student, its gradients and two moments in float32
    assert taught.added_bytes > 5 * 4 * weights
    assert taught.disk_bytes >= plain.disk_bytes + 12 * weights
    assert taught.seconds == pytest.approx(plain.seconds + 600)
    few, many = (forecast(source, ids, Schedule(steps=n)).seconds for n in (10, 1000))
    # 1000 steps of 2048 tokens, eight passes of two FLOPs less two a weight, at 50 GFLOP/s
    assert many - few == pytest.approx(990 * 2048 * 8 * weights / 5e10, rel=0.01)


def test_windows_at_once_fit(base6m: Path) -> None:
    count, nbytes = at_once(models.open(base6m), 256)
    assert count >= 1
    assert nbytes <= 1 << 30


def test_dropping_takes_a_block(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast_experts, "flops_per_second", lambda: 1e10)
    source = models.open(folder("mixtral"), models.MIXTURES)
    few, many = (forecast_drop(source, (n, 24)) for n in (8, 80))
    assert few.disk_bytes >= source.nbytes
    assert many.seconds == pytest.approx(10 * few.seconds)
