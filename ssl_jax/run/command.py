"""A script as a command: what is wrong with its words is one line and code 2, and Ctrl-C no traceback but code 130."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ssl_jax import configs
from ssl_jax.run.writer import plain_warnings

NAME = "ssl-jax "  # with a subcommand, in place of a script's path


class Misuse(ValueError):
    """The words of a command do not make sense."""


class Parser(argparse.ArgumentParser):
    """argparse, whose complaints are exceptions; names of arguments are not to be cut short."""

    def __init__(self, description: str, *, epilog: str | None = None):
        called = sys.argv[0] if sys.argv[0].startswith(NAME) else Path(sys.argv[0]).name
        super().__init__(prog=called, description=description, epilog=epilog, allow_abbrev=False)
        self._run_first = False

    def add_path(self, *names: str, **options: Any) -> None:
        """An argument that is a path: not empty, and ``~`` is expanded."""
        self.add_argument(*names, type=path, **options)

    def add_run(self, name: str, *, help: str) -> None:
        """A run as the first word, or as ``--workdir`` anywhere."""
        self.add_path(name, help=f"{help}; or --workdir {name.upper()}")
        self._run_first = True

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # parse_args calls it
        words = list(sys.argv[1:] if args is None else args)
        for i, word in enumerate(words if self._run_first else ()):
            option, equals, run = word.partition("=")
            if option == "--workdir" and (equals or i + 1 < len(words)):
                words = [run, *words[:i], *words[i + 1 :]] if equals else [words[i + 1], *words[:i], *words[i + 2 :]]
                break
        return super().parse_known_args(words, namespace)

    def parse_changes(self, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
        """The options, and what ``--config.KEY=VALUE`` changes, as ``configs.load`` takes it.

        Raises:
          ValueError: a word is neither.
        """
        options, rest = self.parse_known_args(arguments)
        known = [word for action in self._actions for word in action.option_strings if word.startswith("--")]
        return options, configs.overrides(rest, [word for word in known if word != "--help"])

    def error(self, message: str) -> NoReturn:
        raise Misuse(message)


def path(text: str) -> str:
    """A path of the command line, as argparse wants it read."""
    try:
        return configs.path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def folders(paths: Sequence[str]) -> list[str]:
    """Paths without the files among them, such as tables and pictures in ``runs/sweep/*``, which are counted."""
    files = [path for path in paths if os.path.isfile(path)]
    if not files or len(files) == len(paths):
        return list(paths)
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    print(f"{len(files)} that are no folder are passed over: {', '.join(files[:3])}{more}", file=sys.stderr)
    return [path for path in paths if path not in files]


def named(text: str) -> str:
    """The ``type`` of an argument that may be left out but not be empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; give it a value, or leave it out")
    return text


def again(arguments: list[str]) -> str:
    """The command line that was given, to be given again."""
    script = [sys.argv[0]] if sys.argv[0].startswith(NAME) else [sys.executable, sys.argv[0]]
    return " ".join([*(s if s.startswith(NAME) else shlex.quote(s) for s in script), shlex.join(arguments)]).strip()


def refuse(error: ValueError) -> int:
    """Say why nothing was done; returns the exit code for it."""
    sys.stderr.write(f"error: {error}\n")  # at once, or the lines of several processes run into each other
    return 2


def run(main: Callable[[list[str]], int]) -> NoReturn:
    """End the script with what ``main`` makes of its words."""
    plain_warnings()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # instead of the one under which it imported
    try:
        code = main(sys.argv[1:])
    except Misuse as error:
        code = refuse(error)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # nobody reads on, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        code = 128 + signal.SIGPIPE  # as if the signal had ended it, which Python ignores
    sys.exit(code)
