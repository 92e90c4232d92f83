"""A compression that is killed or interrupted: a complete folder or none, and the next one works.

The steps of the command that change a folder are counted: every file opened, every piece of a
tensor written, every synchronization, rename and removal. Run as a script, this file runs the
command again and again, each time in a new process that ends itself before another of these steps
as `kill -9` or Ctrl-C would. The processes are forks: importing torch takes longer than what they
do.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sprue import cli, models
from sprue.errors import ArtifactError, InputError
from sprue.models import write
from sprue.models.tensorfile import encode
from sprue.runtime import artifact
from sprue.runtime.load import load

Folder = Callable[..., Path]
Ends = Mapping[int, int]  # before which step -> by which signal
OPTIONS = ("--windows", "2", "--context", "16", "--quiet")
QUICKEST = ("--preset", "rtn", "--bits", "6")  # every way of packing writes the same kinds of files
MARK, PROGRESS = ".sprue-partial", "progress"
LOST = "sprue: interrupted\n"
GOES_ON = "sprue: interrupted: give the same command again, and it goes on from here\n"


def command(source: Path, text: Path, out: Path, *more: str) -> list[str]:
    """`sprue compress` with everything stated."""
    return ["compress", str(source), "--out", str(out), "--calibrate", str(text), *OPTIONS, *more]


# --- the script


class Listing(list[Any]):
    """What a folder holds by name, which puts the mark first: the worst order to remove it in."""

    def __init__(self, entries: Iterator[Any]) -> None:
        super().__init__(sorted(entries, key=lambda entry: str(entry.name)))

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()


class Steps:
    """Counts the steps of this process, and sends it the signals that are due."""

    def __init__(self, ends: Ends, patch: pytest.MonkeyPatch) -> None:
        self.ends, self.taken = ends, 0

        def pieces(tensors: Mapping[str, Any]) -> Iterator[Any]:
            for piece in encode(tensors):
                yield piece
                self.take()

        patch.setattr(write, "encode", pieces)
        # only counted: what a process has written outlives it without
        patch.setattr(os, "fsync", lambda _: self.take())
        scan = os.scandir
        patch.setattr(os, "scandir", lambda path=".": Listing(scan(path)))

    def take(self) -> None:
        number, self.taken = self.taken, self.taken + 1
        if number in self.ends:
            os.kill(os.getpid(), self.ends[number])

    def watch(self, folder: Path) -> None:
        """From now on, what concerns `folder`."""
        opened = ("open", "os.mkdir", "os.rename")
        removed = ("os.remove", "os.rmdir")  # whose paths may be relative to an open folder

        def audit(event: str, args: tuple[Any, ...]) -> None:
            if event in removed or (event in opened and str(folder) in str(args)):
                self.take()

        sys.addaudithook(audit)


def one(argv: list[str], folder: Path, ends: Ends, tell: int) -> int:
    """Run the command in this process, its output in a file; exit code, number of steps told."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell does so
    with tempfile.TemporaryFile() as log, pytest.MonkeyPatch.context() as patch:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        steps = Steps(ends, patch)
        steps.watch(folder)
        code = cli.main(argv)
        sys.stdout.flush()
        taken = steps.taken
        log.seek(0)
        os.write(tell, json.dumps([taken, log.read().decode()]).encode())
    return code


def forked(argv: list[str], folder: Path, ends: Ends) -> list[Any]:
    """Exit code (negative: the signal), steps and output, where it came to an end by itself."""
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        os._exit(one(argv, folder, ends, tell))
    os.close(tell)
    with os.fdopen(told) as pipe:
        answer = json.loads(pipe.read() or "[0, null]")
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), *answer]


def serve(first: list[str], requests: Iterable[str]) -> None:
    """Answer every line [argv, folder, ends] with a line of what came of it.

    The command `first` is run in this process: what it imports, the others need not.
    """
    with contextlib.redirect_stdout(sys.stderr):
        assert cli.main(first) == 0
    for line in requests:
        argv, folder, ends = json.loads(line)
        done = forked(argv, Path(folder), {int(step): number for step, number in ends.items()})
        print(json.dumps(done), flush=True)


# --- the tests


class Commands:
    """The command, in processes that end when they are told to.

    Attributes:
        whole: file name -> content of an undisturbed result.
        steps: that it takes.
    """

    def __init__(self, source: Path, text: Path, base: Path) -> None:
        self.source, self.text, self.base = source, text, base
        self.temporary = base / "temporary"
        self.temporary.mkdir()
        paths = {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(self.temporary)}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, *self.argv(base / "first")],
            env=os.environ | paths,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        code, self.steps, _ = self.run(base / "whole", {})
        assert code == 0
        self.whole = content(base / "whole" / "out")

    def argv(self, place: Path) -> list[str]:
        return command(self.source, self.text, place / "out", *QUICKEST)

    def run(self, place: Path, ends: Ends) -> list[Any]:
        """Exit code, steps and output of a command that makes `place`/out."""
        place.mkdir(exist_ok=True)
        argv = self.argv(place)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([argv, str(place), ends]), file=self._process.stdin, flush=True)
        answer: list[Any] = json.loads(self._process.stdout.readline())
        return answer

    def chosen(self, every: int) -> list[int]:
        """Steps: all of the first and the last, where everything differs; in between a share."""
        return [n for n in range(self.steps) if n < 8 or n > self.steps - 16 or n % every == 0]

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def commands(
    speaking: Folder, corpus: Folder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Commands]:
    source = speaking("gpt2", num_hidden_layers=1)
    made = Commands(source, corpus(), tmp_path_factory.mktemp("killed"))
    yield made
    made.close()


def content(folder: Path) -> dict[str, bytes]:
    """Of the files; what an unfinished run has saved of its state lies in a folder."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def check_left(place: Path, whole: Mapping[str, bytes]) -> None:
    """A complete result, or what nothing takes for one."""
    assert names(place) in (set(), {"out"}, {".out.partial"})
    for folder in place.iterdir():
        if (folder / "config.json").exists():
            artifact.check(folder)
            assert whole.items() <= content(folder).items()
            assert names(folder) <= {*whole, MARK, PROGRESS}
        else:
            assert folder.name == ".out.partial"
            check_refused(folder)


def check_refused(folder: Path) -> None:
    with pytest.raises((OSError, ValueError)):
        AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises((ArtifactError, InputError)):
        load(folder)
    with pytest.raises(InputError):
        models.open(folder)


def check_again(commands: Commands, place: Path) -> None:
    """The same command gives what it gives undisturbed, and nothing else stays."""
    code, _, output = commands.run(place, {})
    assert code == 0, output
    assert names(place) == {"out"}
    assert content(place / "out") == commands.whole


def leave_more(partial: Path) -> None:
    """As if the command before had been about a larger model."""
    if (partial / MARK).exists():
        (partial / "model-00099.safetensors").write_bytes(b"old")
        (partial / "model-00099.safetensors.tmp").write_bytes(b"old")


def test_killed_before_a_step(commands: Commands) -> None:
    assert commands.steps > 50
    appeared, again = [], 0
    seen: set[frozenset[str]] = set()
    for step in commands.chosen(3):
        place = commands.base / f"killed{step}"
        assert commands.run(place, {step: signal.SIGKILL})[0] == -signal.SIGKILL
        check_left(place, commands.whole)
        left = frozenset(str(path.relative_to(place)) for path in place.rglob("*"))
        if "out" in left:
            appeared.append(step)
        elif left not in seen and len(seen) % 2:  # half of them, which takes half the time
            leave_more(place / ".out.partial")
            check_again(commands, place)
            again += 1
        seen.add(left)
    assert again > 5
    # only after the rename, which comes nearly last
    assert appeared == list(range(commands.steps - 3, commands.steps))
    assert names(commands.temporary) == set()


def test_a_result_that_has_appeared_is_not_touched_again(commands: Commands) -> None:
    place = commands.base / "appeared"
    commands.run(place, {commands.steps - 1: signal.SIGKILL})
    before = content(place / "out")
    code, _, output = commands.run(place, {})
    assert code == 2
    assert (
        output == f"sprue: error: {place / 'out'} exists already; give a new --out, or remove it\n"
    )
    assert content(place / "out") == before


def test_interrupted_before_a_step(commands: Commands) -> None:
    """Nothing stays where nothing was saved; else the next one goes on, and says so."""
    left = []
    for step in commands.chosen(5):
        place = commands.base / f"interrupted{step}"
        code, _, output = commands.run(place, {step: signal.SIGINT})
        saved = (place / ".out.partial" / PROGRESS / "state.json").is_file()
        left.append(names(place))
        if step > commands.steps - 4 and left[-1] == {"out"}:
            continue  # it had appeared already
        assert code == 130, step
        assert output == (GOES_ON if saved else LOST), step
        assert left[-1] == ({".out.partial"} if saved else set()), step
    assert set() in left
    assert {".out.partial"} in left
    assert names(commands.temporary) == set()


def test_killed_while_an_interrupted_one_tidies_up(commands: Commands) -> None:
    """An impatient user: what is half removed must not stop the next command."""
    step = last_before_saving(commands)
    for more in range(1, 100):
        place = commands.base / f"impatient{more}"
        code, _, _ = commands.run(place, {step: signal.SIGINT, step + more: signal.SIGKILL})
        check_left(place, commands.whole)
        if code == 130:
            break
        check_again(commands, place)
    assert more > 1
    assert names(place) == set()


def last_before_saving(commands: Commands) -> int:
    """The last step at which an interruption has something to remove, and removes it."""
    for step in range(commands.steps):
        place = commands.base / f"searched{step}"
        commands.run(place, {step: signal.SIGINT})
        if names(place):
            return step - 1
    raise AssertionError("nothing was ever saved")


def test_an_interruption_leaves_what_another_process_writes(
    speaking: Folder, corpus: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come just when the lock is asked for."""

    def interrupted(_: int) -> bool:
        raise KeyboardInterrupt

    source = speaking("gpt2", num_hidden_layers=1)
    with models.Writer(tmp_path / "out") as other:
        other.block("x", {"a": torch.zeros(3)})
        monkeypatch.setattr(write, "_locked", interrupted)
        assert cli.main(command(source, corpus(), tmp_path / "out", *QUICKEST)) == 130
        assert names(tmp_path / ".out.partial") == {MARK, "model-x.safetensors"}


def test_a_real_process_is_interrupted(speaking: Folder, corpus: Folder, tmp_path: Path) -> None:
    source = speaking("llama", num_hidden_layers=4)  # long enough to be met in the middle
    argv = command(source, corpus(), tmp_path / "out", "--bits", "3")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # else it may be ignored
    process = subprocess.Popen(
        [sys.executable, "-m", "sprue.cli", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    with process:
        while process.poll() is None and not list(tmp_path.glob(".out.partial/model-*")):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        assert process.communicate() == ("", GOES_ON)
    assert process.returncode == 130
    assert names(tmp_path) == {".out.partial"}


if __name__ == "__main__":
    serve(sys.argv[1:], sys.stdin)
