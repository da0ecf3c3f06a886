"""The command line: parses options, calls the package, and reports every error in one line."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from nanogfl.cli import check, learn, ship, use  # the import registers their commands with the app
from nanogfl.cli.app import app, put_in_order
from nanogfl.errors import NanogflError, UsageError
from nanogfl.machine import cores, limited_by_quota
from nanogfl.training.folder import is_main

__all__ = ["app", "check", "learn", "main", "ship", "use"]

put_in_order()


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return f"warning: {text}" if record.levelno >= logging.WARNING else text


def _quiet(debug: bool) -> None:
    """Log errors to stderr, other records only from the main process; silence other libraries unless under --debug."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    own = logging.getLogger("nanogfl")
    own.handlers[:] = [h for h in own.handlers if not isinstance(h.formatter, _OneLine)] + [handler]
    own.setLevel(logging.DEBUG if debug else logging.INFO if is_main() else logging.ERROR)
    own.propagate = False
    if not debug:
        warnings.simplefilter("ignore")
        warnings.showwarning = lambda *_, **__: None  # some libraries enable warnings again
        if not logging.getLogger().handlers:  # if there is a handler, Lightning adds none
            logging.getLogger().addHandler(logging.NullHandler())
        logging.getLogger("torch").setLevel(logging.ERROR)
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code: 0 success, 1 the work or the data failed, 2 wrong usage."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in given
    _quiet(debug)
    if limited_by_quota():  # torch counts the machine's cores; threads beyond a container's quota wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may have characters that the terminal cannot encode
    try:
        code = _run([a for a in given if a != "--debug"])
    except Exception as error:
        _forget_loaders()
        if debug:
            traceback.print_exc()
        code, message = _explain(error)
        if message:
            sys.stderr.write(f"error: {NanogflError(message)}\n")  # NanogflError makes it one line
    except KeyboardInterrupt:
        _forget_loaders()
        code = int(is_main())  # only the main process of a run prints the message
        if code:
            sys.stderr.write("error: interrupted; no incomplete files were left\n")
    _end_output()
    sys.exit(code)


def _end_output() -> None:
    """Flush stdout; ignore a closed pipe (``| head``) or a full disk, which the failed write reports, if at all."""
    if sys.stdout is None:  # stdout may be closed
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's flush at exit reports an error


def _forget_loaders() -> None:
    """Remove torch's SIGCHLD handler, which raises anywhere in the program if a loader process ends before it."""
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _run(arguments: list[str]) -> int:
    """Run a command; return its exit code. Typer's own ``main`` would turn Ctrl-C into a silent exit code."""
    _refuse_empty(arguments)
    command: Any = typer.main.get_command(app)
    former = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        with command.make_context("nanogfl", arguments) as context:
            command.invoke(context)
    except typer.Exit as left:  # --help
        return left.exit_code
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, former)
    return 0


def _refuse_empty(arguments: list[str]) -> None:
    """Refuse empty arguments: an unset shell variable gives an empty path, which Python takes as the current folder."""
    for before, argument in zip(["nanogfl", *arguments], arguments, strict=False):
        option, sign, value = argument.partition("=")
        if argument == "" or (sign and not value and option.startswith("--")):
            raise UsageError(f"empty value after {option or before}; is a variable in the command empty?")


def _interrupt(*_: object) -> NoReturn:
    """Handle SIGTERM like Ctrl-C."""
    raise KeyboardInterrupt


def _explain(error: Exception) -> tuple[int, str]:
    """Return the exit code and the one-line message for an error."""
    if isinstance(error, NanogflError):
        return error.exit_code, str(error)
    usage = getattr(error, "format_message", None)
    if usage is not None:  # typer's usage errors, whose class differs between its versions
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "nanogfl"
        return 2, f"{usage().rstrip('. ')}. See: {where} --help"
    if isinstance(error, ModuleNotFoundError):
        return 1, f"this command requires more than the runtime ({error.name} is missing): pip install 'nanogfl[train]'"
    if isinstance(error, BrokenPipeError):
        return 1, ""
    if isinstance(error, OSError):
        return 1, f"{error.filename or 'a file'}: {error.strerror or error}; check the path and the free space"
    text = " ".join(str(error).split())[:300]
    if isinstance(error, MemoryError):
        return 1, f"out of memory ({text}); use smaller pictures, or close other programs"
    return 1, f"unexpected {type(error).__name__}: {text}; re-run it with --debug and report the output"
