"""A group of commands that imports a command only to run it, and says every error in one line.

Exit codes: 0 done, 1 the quality gate failed, 2 bad usage, 3 bad input, 4 out of room (memory or disk), 70 a fault of
halfpint itself, 129 ended by SIGHUP, 130 interrupted, 141 nobody reads the output any more, 143 ended by SIGTERM.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import click
from click.shell_completion import CompletionItem

from halfpint.cli.signals import Stopped, stopping
from halfpint.errors import HalfpintError
from halfpint.report.terminal_text import one_line

BAD_INPUT = 3
OUT_OF_ROOM = 4
OWN_FAULT = 70
INTERRUPTED = 130
NOBODY_READS = 141

TRACEBACK = "halfpint.traceback"
"""Key of `click.Context.meta`: whether an error prints where it came from."""

# What Python and C++ say, as a RuntimeError, when there is no memory for a thread.
_NO_MEMORY = ("can't start new thread", "can't allocate lock", "Resource temporarily unavailable", "std::bad_alloc")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EAGAIN})
_LONGEST = 1500
"""Characters of an error message."""


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """A command that is not imported yet: its module, which holds it as `command`, and its one line of help."""

    module: str
    help: str


class Ended(click.ClickException):
    """An error on its way out: what will be said of it, and the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.code = exit_code


class LazyGroup(click.Group):
    """Commands as a table of names and modules."""

    def __init__(self, *args: Any, entries: Mapping[str, CommandEntry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names in the order of the table."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        if cmd_name not in self.entries:
            return None
        found = importlib.import_module(self.entries[cmd_name].module).command
        assert isinstance(found, click.Command), f"{cmd_name} is no command"
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name those that look like it."""
        if args and args[0] not in self.entries and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.entries, n=2)
            hint = f"do you mean {' or '.join(near)}?" if near else f"there are: {', '.join(self.entries)}"
            ctx.fail(f"no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands from the table, importing none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete from the table, importing nothing."""
        names = [
            CompletionItem(name, help=entry.help) for name, entry in self.entries.items() if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without any argument, show the help."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse; a pipe that closes while the help is printed is no fault either."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except BrokenPipeError as error:
            raise explain(error) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; with --traceback an error also prints where it came from."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except (Exception, KeyboardInterrupt, Stopped) as error:
            if ctx.meta.get(TRACEBACK):
                traceback.print_exc()
            # Put into click's own words here: click's `main` would end a broken pipe with 1, the gate's code.
            raise explain(error) from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and leave with the exit code that the outcome means."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A terminal that has no bars and no ± gets escapes, not a crash.
                stream.reconfigure(errors="backslashreplace")
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            if sys.stdout is None:
                # Nothing is begun whose result nobody could read.
                raise Ended("error: standard output is closed; > /dev/null if nobody is to read it", NOBODY_READS)
            _fill_streams()
            with stopping():
                code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
                sys.stdout.flush()
        except (click.ClickException, click.Abort, OSError, KeyboardInterrupt, Stopped) as error:
            sys.exit(_say(explain(error)))
        sys.exit(code if isinstance(code, int) else 0)


def _say(ended: Ended) -> int:
    """Put an end into words, unless it is that nobody reads them; give its exit code."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            # The interpreter would complain when it flushes standard output at the end.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if ended.code != NOBODY_READS or sys.stdout is None:
        with suppress(OSError):
            click.echo(f"halfpint: {_bounded(ended.message)}", err=True)
    return ended.code


def _bounded(message: str) -> str:
    """Leave out the middle of a message that repeats something endless that was typed."""
    return message if len(message) <= _LONGEST else f"{message[: _LONGEST - 300]} [...] {message[-250:]}"


def _fill_streams() -> None:
    """Put the null device in the place of standard streams that are closed, so that no file takes their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def explain(error: BaseException) -> Ended:
    """Put an error, and what was noted about it on its way, into one line and an exit code."""
    if isinstance(error, Ended):
        return error
    ended = _explain(error)
    return Ended("; ".join([ended.message, *map(one_line, getattr(error, "__notes__", ()))]), ended.code)


def _explain(error: BaseException) -> Ended:
    if isinstance(error, Stopped):
        return Ended(str(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Ended("interrupted", INTERRUPTED)
    if isinstance(error, click.ClickException):
        return Ended(f"error: {one_line(_usage(error))}", error.exit_code)
    if isinstance(error, HalfpintError):
        return Ended(f"error: {one_line(str(error))}", error.exit_code)
    if isinstance(error, BrokenPipeError):
        return Ended("nobody reads the output any more", NOBODY_READS)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and str(error).startswith(_NO_MEMORY)):
        return Ended("error: not enough memory; close other programs or take a smaller model", OUT_OF_ROOM)
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        said = one_line(f"{error.strerror or error}{where}")
        return Ended(f"error: {said}", OUT_OF_ROOM if error.errno in _NO_ROOM else BAD_INPUT)
    said = one_line(f"{type(error).__name__}: {error}")
    return Ended(f"error: a fault of halfpint itself: {said}; --traceback shows where, please report it", OWN_FAULT)


def _usage(error: click.ClickException) -> str:
    """What click says of an error, and where the options are listed when they were used wrongly."""
    message = error.format_message().rstrip(".")
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{message}; {error.ctx.command_path} --help shows the usage"
    return message
