"""Speed, memory and energy: what is counted, and how it is labelled."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from sprue.errors import InputError
from sprue.proof import energy, machine, memory, speed


class Clock:
    """Stands in for the clocks of `speed`: only models move it."""

    def __init__(self) -> None:
        self.now = self.cpu = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.cpu


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(speed, "time", made)
    return made


class Timed:
    """A model that takes the time it is told to, and remembers what it was asked."""

    def __init__(self, clock: Clock, seconds: Iterable[float]) -> None:
        self.clock, self.seconds, self.calls = clock, cycle(seconds), []

    def __call__(self, ids: torch.Tensor, past_key_values: Any, use_cache: bool) -> Any:
        self.calls.append((ids.shape[1], past_key_values))
        seconds = next(self.seconds)
        self.clock.now += seconds
        self.clock.cpu += 2 * seconds  # two threads
        seen = (past_key_values or 0) + ids.shape[1]
        return SimpleNamespace(logits=torch.ones(1, ids.shape[1], 5), past_key_values=seen)


def test_both_models_are_timed_in_turns_and_compared_round_by_round(clock: Clock) -> None:
    # The machine is three times as slow in every other round, for both models: the ratio is not.
    fast = Timed(clock, [0.03, 0.01, 0.01, 0.01, 0.09, 0.03, 0.03, 0.03])
    slow = Timed(clock, [0.06, 0.02, 0.02, 0.02, 0.18, 0.06, 0.06, 0.06])
    told: list[int] = []
    prompt = torch.zeros(1, 5, dtype=torch.long)
    found = speed.measure(fast, slow, prompt, 3, rounds=8, advance=told.append)
    assert told == [1] * 9
    for ratio in (found.ratio, found.prefill_ratio):
        assert (ratio.low, ratio.value, ratio.high) == pytest.approx((0.5, 0.5, 0.5))
        assert ratio.confidence > 0.95
    assert found.cpu_ratio.value == pytest.approx(2)
    assert found.original.tokens_per_second == pytest.approx(1 / 0.02)
    assert found.original.prefill_tokens_per_second == pytest.approx(5 / 0.06)
    assert found.original.cpu_seconds == pytest.approx(2 * 0.02)
    assert found.original.joules is None
    prompt_then_one_by_one = [(5, None), (1, 5), (1, 6), (1, 7)]
    assert fast.calls == prompt_then_one_by_one * 9


@pytest.mark.parametrize(
    ("each", "read", "written"),
    [(0.001, 128, 32), (0.1, 128, 7), (3.0, 30, 4), (1000.0, 16, 4)],
)
def test_slow_models_read_and_write_less(
    clock: Clock, each: float, read: int, written: int
) -> None:
    model = Timed(clock, [each])
    prompt = torch.zeros(1, 128, dtype=torch.long)
    found = speed.measure(model, model, prompt, 32, rounds=7, seconds=20)
    assert (found.prompt_tokens, found.new_tokens) == (read, written)
    assert {ids for ids, _ in model.calls} == {128, read, 1}


def test_a_counter_is_read_around_the_writing_only(clock: Clock) -> None:
    counter = SimpleNamespace(source="rapl", joules=iter(range(0, 1000, 6)).__next__)
    prompt = torch.zeros(1, 5, dtype=torch.long)
    found = speed.measure(
        Timed(clock, [1]), Timed(clock, [1]), prompt, 3, rounds=2, counter=counter
    )
    assert found.original.joules == found.result.joules == 2  # 6 joules for 3 tokens


def powercap(folder: Path, readings: dict[str, tuple[str, int, int]]) -> Path:
    for zone, (name, used, turn) in readings.items():
        (folder / zone).mkdir(parents=True)
        (folder / zone / "name").write_text(name + "\n")
        (folder / zone / "energy_uj").write_text(f"{used}\n")
        (folder / zone / "max_energy_range_uj").write_text(f"{turn}\n")
    return folder


def test_rapl_adds_packages_and_dram_and_survives_a_wrap(tmp_path: Path) -> None:
    zones = powercap(
        tmp_path,
        {
            "intel-rapl:0": ("package-0", 900_000, 1_000_000),
            "intel-rapl:0:0": ("core", 5, 1_000_000),
            "intel-rapl:0:1": ("dram", 100_000, 1_000_000),
            "intel-rapl:1": ("psys", 7, 1_000_000),
        },
    )
    counter = energy.counter("cpu", zones)
    assert counter is not None
    assert counter.source == "rapl"
    assert counter.joules() == 0
    for zone, used in (("intel-rapl:0", 200_000), ("intel-rapl:0:1", 150_000)):
        (zones / zone / "energy_uj").write_text(str(used))
    assert counter.joules() == pytest.approx(0.3 + 0.05)
    (zones / "intel-rapl:0:1" / "energy_uj").write_text("250000")
    assert counter.joules() == pytest.approx(0.45)


def test_no_zone_or_one_that_may_not_be_read_is_no_counter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert energy.counter("cpu", tmp_path / "none") is None
    zones = powercap(tmp_path, {"intel-rapl:0": ("package-0", 1, 2)})

    def forbidden(file: Path) -> int:
        raise PermissionError(file)

    monkeypatch.setattr(energy, "_number", forbidden)
    assert energy.counter("cpu", zones) is None


def test_nvml_is_asked_in_millijoules() -> None:
    def used(handle: Any, answer: Any) -> int:
        ctypes.cast(answer, ctypes.POINTER(ctypes.c_ulonglong))[0] = 2500
        return 0

    library = SimpleNamespace(
        nvmlInit_v2=lambda: 0,
        nvmlDeviceGetHandleByIndex_v2=lambda index, handle: 0,
        nvmlDeviceGetTotalEnergyConsumption=used,
    )
    assert energy.Nvml(library, 0).joules() == 2.5
    library.nvmlDeviceGetTotalEnergyConsumption = lambda handle, answer: 3
    with pytest.raises(OSError, match="error 3"):
        energy.Nvml(library, 0)


def test_a_machine_without_the_driver_has_no_gpu_counter() -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has an NVIDIA driver")
    assert energy.counter("cuda") is None


def test_the_model_says_that_it_is_one_and_with_which_constants() -> None:
    found = energy.model(cpu_seconds=0.01, bytes_moved=1e9)
    assert found.source == "modelled"
    assert found.joules_per_token == pytest.approx((0.03 + 0.16, 0.12 + 0.33))
    assert found.constants["watts_per_core"] == [3, 12]
    assert found.constants["picojoules_per_byte"] == [160, 330]
    assert energy.read("rapl", 2.0).joules_per_token == (2, 2)


def test_memory_grows_with_what_a_process_holds() -> None:
    before, more = memory.peak_bytes(), 50_000_000
    given_back = before - psutil.Process().memory_info().rss  # by what ran earlier in this process
    held = torch.ones(given_back + more, dtype=torch.uint8)
    assert memory.peak_bytes() - before > 0.9 * more
    del held


def test_a_folder_without_a_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The interpreter itself stands in for the measurement: importing torch takes seconds.
    monkeypatch.setattr(memory.sys, "executable", "/bin/false")
    with pytest.raises(InputError, match=f"memory of {tmp_path} could not be measured"):
        memory.measure([tmp_path, tmp_path], context=8)


def test_the_stamp_names_the_machine_and_is_json() -> None:
    stamp = machine.stamp()
    assert stamp.cores >= 1
    assert stamp.threads == torch.get_num_threads()
    assert stamp.memory_bytes > 1e8
    assert set(stamp.versions) == {"sprue", "python", "torch", "transformers"}
    assert json.dumps(vars(stamp))
