"""The command line: what it accepts, how it refuses, and how it ends."""

from __future__ import annotations

import errno
import inspect
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import sprue
from sprue import cli, cli_common, demo_run
from sprue.compress import DEFAULT_WINDOWS, compress
from sprue.errors import BudgetError, SprueWarning
from sprue.generate import generate
from sprue.plan.goal import DEFAULT_BITS
from sprue.sweep import sweep
from sprue.verify import verify


class Report:
    """Stands in for a verb's report."""

    def __init__(self, passed: bool = True) -> None:
        self.passed = passed

    def as_dict(self) -> dict[str, Any]:
        return {"bytes": {"result": 12}, "passed": self.passed}

    def table(self) -> str:
        return "a table"


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Verbs that record their calls: these tests are about the command line alone."""
    seen = SimpleNamespace(calls=[], answer=Report(), error=None)

    def record(*args: Any, **options: Any) -> Any:
        seen.calls.append((args, options))
        if seen.error is not None:
            raise seen.error
        return seen.answer

    for module, name in (
        *(("compress", "compress"), ("verify", "verify"), ("generate", "generate")),
        *(("sweep", "sweep"), ("demo_run", "run")),
    ):
        fake = ModuleType(f"sprue.{module}")
        setattr(fake, name, record)
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
        monkeypatch.setattr(sprue, module, fake, raising=False)
    return seen


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a wrong argument is refused with."""
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    first, see = output.err.splitlines()
    assert first.startswith("sprue: error: ")
    assert see.startswith("See 'sprue")
    return first


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys; from sprue.cli import build_parser; build_parser().format_help();"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy', 'huggingface_hub'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"sprue {sprue.__version__}\n"


@pytest.mark.parametrize("command", ["compress", "verify", "generate", "sweep", "demo"])
def test_every_command_has_help_with_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"examples:\n  sprue {command}" in capsys.readouterr().out


def test_compress_without_options_leaves_them_to_the_verb(
    verbs: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compress", "model", "--out", "small"]) == 0
    ((args, options),) = verbs.calls
    assert [str(a) for a in args] == ["model", "small"]
    for name in ("bits", "size", "recipe", "preset", "seed", "context"):
        assert options[name] is None
    assert options["calibrate"] == []
    assert options["windows"] == DEFAULT_WINDOWS
    assert cli_common.DEFAULT_BITS == DEFAULT_BITS  # what the help says, and what the verb takes
    assert capsys.readouterr().out == "a table\n"


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (["--bits", "2.5"], (2.5, None, None)),
        (["--size", "30%"], (None, "30%", None)),
        (["--recipe", "r.yaml"], (None, None, "r.yaml")),
    ],
)
def test_a_stated_budget_replaces_the_default(
    verbs: SimpleNamespace, budget: list[str], expected: tuple[Any, ...]
) -> None:
    cli.main(["compress", "model", "--out", "small", *budget])
    options = verbs.calls[0][1]
    recipe = options["recipe"] and str(options["recipe"])
    assert (options["bits"], options["size"], recipe) == expected


@pytest.mark.parametrize(
    ("argv", "verb"),
    [
        (["compress", "m", "--out", "o", "--bits", "3", "--seed", "1"], compress),
        (["verify", "m", "o", "--data", "d", "--keep", "99%", "--report", "r.html"], verify),
        (["generate", "o", "--prompt", "x", "--beside", "m", "--temperature", "0.5"], generate),
        (["sweep", "m", "--data", "a=b,c", "--out", "o", "--pick", "a"], sweep),
        (["demo", "--bits", "3"], demo_run.run),
    ],
)
def test_the_verbs_take_what_they_are_given(
    argv: list[str], verb: Callable[..., object], verbs: SimpleNamespace
) -> None:
    cli.main(argv)
    ((args, options),) = verbs.calls
    inspect.signature(verb).bind(*args, **options)


def test_repeated_files_are_all_given(verbs: SimpleNamespace) -> None:
    cli.main(["compress", "m", "--out", "o", "--calibrate", "a.txt", "--calibrate", "b.jsonl"])
    cli.main(["verify", "m", "o", "--data", "a.txt", "--data", "b.txt"])
    assert [str(p) for p in verbs.calls[0][1]["calibrate"]] == ["a.txt", "b.jsonl"]
    assert [str(p) for p in verbs.calls[1][1]["data"]] == ["a.txt", "b.txt"]


def test_json_is_the_report_and_nothing_else(
    verbs: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["compress", "m", "--out", "o", "--json"])
    assert json.loads(capsys.readouterr().out) == verbs.answer.as_dict()


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_verify_exits_with_one_when_not_met(
    verbs: SimpleNamespace, passed: bool, code: int
) -> None:
    verbs.answer = Report(passed)
    assert cli.main(["verify", "m", "o", "--data", "d.txt", "--keep", "99%"]) == code
    assert verbs.calls[0][1]["keep"] == pytest.approx(0.99)


BASE = ["compress", "m", "--out", "o"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "COMMAND"),
        (["shrink"], "invalid choice: 'shrink'"),
        (["compress", "m"], "--out"),
        ([*BASE, "--bits", "3", "--size", "30%"], "not allowed with argument --bits"),
        ([*BASE, "--size", "30%", "--recipe", "r.yaml"], "not allowed with argument --size"),
        ([*BASE, "--bits", "many"], "expected bits per weight, such as 4 or 2.5, got 'many'"),
        ([*BASE, "--bits", "nan"], "got 'nan'"),
        ([*BASE, "--bits", "64"], "use --size"),
        ([*BASE, "--preset", "magic"], "'rtn', 'gptq', 'svd', 'caldera'"),
        ([*BASE, "--windows", "0"], "windows, 1 or more, got '0'"),
        ([*BASE, "--seed", "-1"], "0 or more, got '-1'"),
        ([*BASE, "--context", "x"], "tokens, 2 or more, got 'x'"),
        (["verify", "m", "o"], "--data"),
        (["verify", "m", "o", "--data", "d", "--keep", "150%"], "up to 100%, got '150%'"),
        (["verify", "m", "o", "--data", "d", "--keep", "most"], "such as 99% or 0.99, got 'most'"),
        (["generate", "o", "--prompt", "x", "--temperature", "-1"], "0 or more, got '-1'"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(argv, capsys)


def test_a_recipe_leaves_no_room_for_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*BASE, "--recipe", "r.yaml", "--preset", "gptq"]) == 2
    assert "leave out the preset" in capsys.readouterr().err


def test_our_warnings_are_plain_lines_and_others_are_left_out(
    verbs: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(*_: object, **__: object) -> Report:
        warnings.warn("your own text is better", SprueWarning, stacklevel=2)
        warnings.warn("a tensor is not writable", UserWarning, stacklevel=2)
        return Report()

    monkeypatch.setattr(sys.modules["sprue.compress"], "compress", warn)
    for _ in range(2):  # every time, not once for each place
        assert cli.main(BASE) == 0
        assert capsys.readouterr().err == "sprue: warning: your own text is better\n"


def test_whoever_asks_python_for_warnings_gets_them(
    verbs: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(*_: object, **__: object) -> Report:
        warnings.warn("a tensor is not writable", UserWarning, stacklevel=2)
        return Report()

    monkeypatch.setattr(sys.modules["sprue.compress"], "compress", warn)
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    with pytest.warns(UserWarning, match="not writable"):
        cli.main(BASE)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (BudgetError("2 bytes cannot hold it: ask for 100"), 2, "sprue: error: 2 bytes cannot"),
        (OSError(errno.ENOSPC, "No space left", "small/x"), 2, "No space left: small/x"),
        (OSError(errno.EFBIG, "File too large"), 2, "File too large: while writing"),
        (PermissionError(errno.EACCES, "Permission denied", "small"), 2, "denied: small"),
        (MemoryError(), 2, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 2, "out of memory"),
        (KeyboardInterrupt(), 130, "sprue: interrupted"),
    ],
)
def test_what_a_user_can_mend_is_said_without_a_traceback(
    verbs: SimpleNamespace,
    error: BaseException,
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    verbs.error = error
    assert cli.main(BASE) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err
    assert len(output.err.splitlines()) == 1


@pytest.mark.parametrize("error", [RuntimeError("a fault"), OSError(errno.EIO, "Input/output")])
def test_a_fault_of_sprue_shows_where_and_is_no_verdict(
    verbs: SimpleNamespace, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    verbs.error = error
    assert cli.main(BASE) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_closed_pipe_ends_quietly() -> None:
    # The reader leaves at once; the page is longer than a pipe holds, so writing must fail.
    code = (
        "import sys\n"
        "from sprue import cli, cli_common\n"
        "from types import SimpleNamespace as Space\n"
        "def run(args):\n"
        "    cli_common.show('x' * 1_000_000)\n"
        "    return 0\n"
        "cli.build_parser = lambda: Space(parse_args=lambda argv: Space(run=run))\n"
        "sys.exit(cli.main([]))\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("99%", 0.99),
        ("99.99%", 0.9999),
        ("0.99", 0.99),
        ("100%", 1.0),
        (" 1 ", 1.0),
        ("0.5%", 0.005),
    ],
)
def test_shares(text: str, value: float) -> None:
    assert cli_common.share(text) == pytest.approx(value)
