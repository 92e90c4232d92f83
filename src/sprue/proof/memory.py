"""Peak resident memory of a model, in a fresh process that loads it and runs one window.

Run as a module, it measures itself: `python -m sprue.proof.memory FOLDER CONTEXT DEVICE THREADS`
prints one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sprue.errors import InputError

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Memory:
    """Of one process.

    Attributes:
        peak_bytes: most resident memory, the interpreter and its libraries included.
        baseline_bytes: the same before the model was loaded, with all libraries imported.
        device_bytes: most memory allocated on the accelerator; None on a CPU.
        dtype: of what is not packed.
    """

    peak_bytes: int
    baseline_bytes: int
    device_bytes: int | None
    dtype: str


def measure(
    folders: Sequence[Path], *, context: int, device: str = "cpu", threads: int | None = None
) -> list[Memory]:
    """Load each model, in its stored dtype, in a process of its own, and run one window.

    The processes run side by side: most of their time goes into importing libraries.

    Args:
        folders: artifacts, or ordinary model folders.
        context: tokens of the window.
        device: where it runs.
        threads: of torch; None leaves it to the environment.

    Raises:
        InputError: a process could not do it.
    """
    options = [str(context), device, str(threads or 0)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "sprue.proof.memory", str(folder), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in folders
    ]
    try:
        return [_answer(p, folder) for p, folder in zip(processes, folders, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _answer(process: subprocess.Popen[str], folder: Path) -> Memory:
    output, errors = process.communicate()
    if process.returncode != 0:
        reason = (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise InputError(f"the memory of {folder} could not be measured: {reason}")
    return Memory(**json.loads(output.splitlines()[-1]))


def peak_bytes() -> int:
    """Most resident memory of this process up to now."""
    if _STATUS.is_file():
        # Not getrusage: its figure survives exec, so that a child reports its parent's peak.
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _run(folder: str, context: int, device: str, threads: int) -> Memory:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from sprue.runtime.load import load

    if threads:
        torch.set_num_threads(threads)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    importlib.import_module("sprue.runtime.linear")
    with torch.device("meta"):  # imports the model's code, and takes no memory for weights
        AutoModelForCausalLM.from_config(config)
    before = peak_bytes()
    dtype = config.dtype or torch.float32
    model = load(folder, device=device, dtype=dtype)
    with torch.inference_mode():
        model(torch.arange(context, device=device)[None] % config.get_text_config().vocab_size)
    on_device = torch.device(device).type == "cuda"
    return Memory(
        peak_bytes(),
        before,
        torch.cuda.max_memory_allocated(device) if on_device else None,
        str(dtype).removeprefix("torch."),
    )


def main(arguments: list[str]) -> None:
    """Measure this process and print the figures."""
    folder, context, device, threads = arguments
    print(json.dumps(asdict(_run(folder, int(context), device, int(threads)))))


if __name__ == "__main__":
    main(sys.argv[1:])
