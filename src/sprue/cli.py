"""The command line: `sprue compress`, `verify` and their like, one module for each command.

Exit codes: 0 done, 1 `--keep` not met, 2 something that the user can mend (said in one line),
70 a fault of sprue itself (with a traceback), 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from sprue import (
    __version__,
    cli_activations,
    cli_audit,
    cli_common,
    cli_compress,
    cli_demo,
    cli_experts,
    cli_generate,
    cli_plan,
    cli_rank,
    cli_replay,
    cli_route,
    cli_specialize,
    cli_sweep,
    cli_verify,
)
from sprue.errors import SprueError

USER_ERROR, INTERNAL_ERROR, INTERRUPTED, PIPE_CLOSED = 2, 70, 130, 141
# What the operating system refuses for reasons that lie outside of sprue.
_MENDABLE = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG),
    )
)
_NO_MEMORY = "out of memory: close other programs, or give fewer and shorter windows"
_COMMANDS = {
    "compress": cli_compress,
    "audit": cli_audit,
    "plan": cli_plan,
    "activations": cli_activations,
    "experts": cli_experts,
    "verify": cli_verify,
    "generate": cli_generate,
    "sweep": cli_sweep,
    "rank": cli_rank,
    "route": cli_route,
    "specialize": cli_specialize,
    "replay": cli_replay,
    "demo": cli_demo,
}

ABOUT = """\
Cut a trained language model down to a stated budget, and prove what was kept.

  compress     make a smaller model from a Hugging Face folder or hub name
  audit        show where the fat of a network is, before anything is cut
  plan         say what that would take and give, without doing it
  activations  make one that leaves the weights unread that meet small inputs
  experts      make feed-forward layers experts, of which a token computes a few
  verify       compare a result with its original: quality, size, speed, memory, energy
  generate     try a result, beside the original if you like
  sweep        measure which ratio of zeros fits which task
  rank         say what users ask for, by the compute that it takes
  route        show which model of a fleet would answer a request
  specialize   cut out of a model the part that one capability needs
  replay       ask a log again, of a fleet and of its full model, and prove what is saved
  demo         compress and verify the small model that ships with sprue"""

EXAMPLES = """\
  sprue demo
  sprue compress path/to/model --out small --bits 3.5
  sprue verify path/to/model small --data my.txt --keep 99%

'sprue COMMAND --help' explains a command."""


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument the way that every other error is reported."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"sprue: error: {message}\nSee '{self.prog} --help'.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the exit code."""
    args = build_parser().parse_args(argv)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when it is imported
    try:
        with cli_common.plain_warnings():
            code: int = args.run(args)
        sys.stdout.flush()
    except SprueError as error:
        return _fail(str(error))
    except KeyboardInterrupt as stopped:
        print(": ".join(filter(None, ("sprue: interrupted", str(stopped)))), file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has left; nothing more can be said there, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except MemoryError:
        return _fail(_NO_MEMORY)
    except OSError as error:
        if error.errno not in _MENDABLE:
            return _fault()
        return _fail(f"{error.strerror}: {error.filename or 'while writing'}")
    except Exception as error:
        return _fail(_NO_MEMORY) if _is_memory(error) else _fault()
    return code


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; nothing heavy is imported for it."""
    parser = _Parser(
        prog="sprue",
        usage="sprue [-h] [--version] COMMAND ...",
        description=ABOUT,
        epilog=f"examples:\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sprue {__version__}")
    commands = parser.add_subparsers(
        metavar="COMMAND", required=True, help=argparse.SUPPRESS, prog="sprue"
    )
    for name, module in _COMMANDS.items():
        command = commands.add_parser(
            name,
            description=module.ABOUT,
            epilog=f"examples:\n{module.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
    return parser


def _is_memory(error: Exception) -> bool:
    """Whether torch found no memory, which it says with a RuntimeError."""
    told = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in told or "out of memory" in told
    )


def _fail(message: str) -> int:
    """Say it in one line, also what quotes another library's several."""
    lines = (line.strip() for line in message.splitlines())
    print("sprue: error:", *filter(None, lines), file=sys.stderr)
    return USER_ERROR


def _fault() -> int:
    traceback.print_exc()
    print("sprue: internal error: please report the lines above", file=sys.stderr)
    return INTERNAL_ERROR


if __name__ == "__main__":
    sys.exit(main())
