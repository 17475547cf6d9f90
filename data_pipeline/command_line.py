"""What the commands have in common: how they end, and `--config FILE`, settings and `--help`.

The help lists every setting with its type, its default and the docstring under its field, read
from the source of the dataclass, so that there is one place that says what a setting means. What
reads settings is imported by the functions that do: a command without a config needs no pydantic,
and runs where there is little more than torch.
"""

import argparse
import ast
import contextlib
import dataclasses
import functools
import inspect
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import types
import typing
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import yaml

from data_pipeline.errors import UserError

Config = TypeVar("Config")
WORDS = {
    **{str: "TEXT", Path: "PATH"},
    **{int: "INT", float: "NUMBER", bool: "true|false", types.NoneType: "null"},
    Any: "VALUE",
}
NO_DEFAULT = object()
USER_EXIT, GO_ON_EXIT, INTERRUPTED_EXIT = 2, 75, 130
"""Exit codes: something is there for the user to mend (argparse's own too); asked to stop, start
me again (EX_TEMPFAIL of sysexits.h); Ctrl-C (128 + INT)."""
ASKING = (signal.SIGTERM, signal.SIGUSR1)
"""Signals that ask a command to stop: a scheduler whose time is up, a launcher that is stopped."""


class AskedToStop(KeyboardInterrupt):
    """A command that can go on later was sent one of ASKING; its text is the signal's name."""


def _to_stderr(message: str, error: BaseException) -> None:
    if isinstance(error, AskedToStop) and os.environ.get("RANK", "0") != "0":
        return  # all ranks of a launcher's are asked
    print(message, file=sys.stderr)


def run_shell(command: str, where: str = "") -> None:
    """Run a line of bash that a user could give as well, and say it. Raises UserError, beginning
    with `where`, if it fails."""
    print(f"+ {command}", flush=True)
    if subprocess.run(["bash", "-c", command]).returncode:
        raise UserError(f"{where}this command failed: {command}")


def run_command(
    main: Callable[[list[str] | None], int],
    argv: list[str] | None,
    *,
    name: str,
    go_on: str = "",
    tell: Callable[[str, BaseException], None] = _to_stderr,
) -> int:
    """The exit code of `main(argv)`; what a user can mend costs one message and 2, Ctrl-C 130.

    Messages begin with `name`. `go_on` is what the command's next start will do, for a command that
    loses nothing when it is stopped: TERM and USR1 then end it like Ctrl-C, with 75. `tell` is
    given the message and the error that it is of. Any other error is the program's fault and is
    raised.
    """
    with _signals_restored() as heard:
        asked = heard if go_on else ()
        for number in asked:
            signal.signal(number, _stop)
        try:
            return main(argv)
        except UserError as error:
            code, message, told = USER_EXIT, f"{name}: {error}", error
        except OSError as error:
            code, message, told = USER_EXIT, f"{name}: {os_error_text(error)}", error
        except AskedToStop as error:
            code, message, told = GO_ON_EXIT, f"{name}: stopped by {error}; {go_on}", error
        except KeyboardInterrupt as error:
            message = f"{name}: interrupted" + (f"; {go_on}" if go_on else "")
            code, told = INTERRUPTED_EXIT, error
        # Telling may take seconds, and what comes meanwhile must not change the exit code.
        for number in asked:
            signal.signal(number, lambda *_: os._exit(code))
        tell(message, told)
        return code


@contextlib.contextmanager
def _signals_restored() -> Iterator[Collection[signal.Signals]]:
    """Those of ASKING that this thread may answer; their handlers are as before at its end.

    What is ignored, as under nohup, stays so, and only the main thread hears signals.
    """
    main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in ASKING if main_thread}
    heard = {number: how for number, how in before.items() if how != signal.SIG_IGN}
    try:
        yield heard.keys()
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


def _stop(number: int, _: types.FrameType | None) -> NoReturn:
    for other in ASKING:
        signal.signal(other, signal.SIG_IGN)  # what cleans up is not to be stopped
    raise AskedToStop(signal.Signals(number).name)


def leave(code: int) -> NoReturn:
    """End this process with `code`, whatever signal comes meanwhile: it takes torch seconds.

    A rank ends at once. Where it failed, its process group's native threads still wait for the
    others; where all went well, some are about to end. Torn down in the middle of that they abort,
    which is another exit code, and no way to end a run whose work is done and saved.
    """
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)
    if "RANK" in os.environ:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def os_error_text(error: OSError, where: object = None) -> str:
    """What the system refused, and of which file; `where` is for those that name none."""
    name = error.filename or where
    return f"cannot read or write{f' {name}' if name else ''}: {error.strerror or error}"


def config_from_command_line(
    cls: type[Config], argv: list[str] | None, *, command: str, about: str, example: str
) -> Config:
    """The config that `command` was called with; argv None takes the process's own words.

    `--config FILE` once, and settings as `key=value`, `--key=value` or `--key value`. With
    `--help` it prints `about`, the settings and `example`, and the process ends.
    """
    from data_pipeline.config import ConfigError, load_config

    parser = _Parser(cls, prog=command, description=about, epilog=f"example:\n  {example}")
    parser.add_argument("--config", metavar="FILE", action="append", default=[])
    # Launchers (deepspeed, torchrun's older form) append it; ranks are read from the environment.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    known, rest = parser.parse_known_args(argv)
    if len(known.config) > 1:
        raise ConfigError(f"--config is given {len(known.config)} times; expected one file")
    return load_config(cls, known.config[0] if known.config else None, _overrides(rest))


def command_parser(command: str, about: str, example: str) -> argparse.ArgumentParser:
    """A parser for a command without a config; its help shows defaults and an example."""
    return argparse.ArgumentParser(prog=command, **parser_style(about, example))


def parser_style(about: str, example: str) -> dict[str, Any]:
    """What command_parser gives a parser, for the parsers of its commands."""
    return {
        "description": about,
        "epilog": f"example:\n  {example}",
        "formatter_class": _Formatter,
        "allow_abbrev": False,
    }


def _overrides(words: list[str]) -> list[str]:
    from data_pipeline.config import ConfigError

    overrides = []
    left = iter(words)
    for word in left:
        if word.startswith("--") and "=" not in word:
            value = next(left, None)
            if value is None:
                raise ConfigError(f"{word} stands without a value; write {word[2:]}=VALUE")
            word = f"{word}={value}"
        overrides.append(word)
    return overrides


class _LineFormatter(argparse.HelpFormatter):
    """Keeps the line breaks of description and example, and breaks what is too long."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        style = {"width": width, "initial_indent": indent, "subsequent_indent": indent}
        return "\n".join(textwrap.fill(line, **style) for line in text.splitlines())


class _Formatter(_LineFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class _SettingFormatter(_LineFormatter):
    """Each setting on a line of its own, what it means below."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=6)


class _Parser(argparse.ArgumentParser):
    """Its help lists the settings of a config class, grouped by component."""

    def __init__(self, config: type, **about: str) -> None:
        super().__init__(
            **about,
            usage=f"{about['prog']} [--config FILE] [key=value ...]",
            formatter_class=_SettingFormatter,
            allow_abbrev=False,
        )
        self._config = config

    def print_help(self, file: Any = None) -> None:
        if os.environ.get("RANK", "0") == "0":  # a launcher starts several of us
            super().print_help(file)

    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, [], [])
        formatter.add_text(self.description)
        formatter.add_text(self.epilog)
        formatter.add_text(
            "--config FILE is a YAML of these settings, see configs/. key=value, with the names "
            "below, comes on top of it. Quote what holds spaces, brackets or braces."
        )
        for component, about, settings in settings_of(self._config):
            formatter.start_section(component or "settings")
            formatter.add_text(about or None)
            for setting in settings:
                formatter.add_argument(
                    argparse.Action(
                        [], "", metavar=f"{setting.name}={setting.type}", help=str(setting)
                    )
                )
            formatter.end_section()
        return formatter.format_help()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A field of a config, as a user reads of it."""

    name: str
    """With its component: optim.steps."""
    type: str
    meaning: str
    """The docstring under the field; empty where there is none."""
    default: str | None
    """As YAML; None where the setting must be given."""

    def __str__(self) -> str:
        end = "Must be given." if self.default is None else f"Default: {self.default}"
        # argparse fills in %-formats.
        return " ".join(filter(None, (self.meaning, end))).replace("%", "%%")


def settings_of(
    cls: type, name: str = "", default: Any = NO_DEFAULT
) -> Iterator[tuple[str, str, list[Setting]]]:
    """(component, its docstring, its settings) of `cls` and of each section below it."""
    from data_pipeline.config import section_of

    hints, meanings = typing.get_type_hints(cls, include_extras=True), field_docstrings(cls)
    settings, sections = [], []
    for f in dataclasses.fields(cls):
        full = f"{name}.{f.name}".lstrip(".")
        value = _default(f) if default is NO_DEFAULT else getattr(default, f.name)
        section = section_of(hints[f.name])
        if section is not None:
            sections.append((section, full, value))
            continue
        settings.append(
            Setting(
                name=full,
                type=_type_text(hints[f.name]),
                meaning=meanings.get(f.name, ""),
                default=None if value is NO_DEFAULT else _yaml_text(value),
            )
        )
        if "sections" in f.metadata:
            sections += [(f.metadata["sections"](n), f"{full}.{n}", NO_DEFAULT) for n in value]
    if settings:
        about = cls.__doc__ or ""
        # A dataclass without a docstring is given its signature as one.
        yield (
            name,
            "" if about.startswith(f"{cls.__name__}(") else inspect.cleandoc(about),
            settings,
        )
    for section, full, value in sections:
        yield from settings_of(section, full, value)


@functools.cache
def field_docstrings(cls: type) -> dict[str, str]:
    """Field to the text of the string literal under it, also those of the classes above."""
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(body, ast.ClassDef)
        for statement, below in zip(body.body, body.body[1:], strict=False):
            if not isinstance(statement, ast.AnnAssign) or not isinstance(below, ast.Expr):
                continue
            if isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
                assert isinstance(statement.target, ast.Name)
                found[statement.target.id] = " ".join(below.value.value.split())
    return found


def _default(f: dataclasses.Field) -> Any:
    if f.default is not dataclasses.MISSING:
        return f.default
    return NO_DEFAULT if f.default_factory is dataclasses.MISSING else f.default_factory()


def _type_text(hint: Any) -> str:
    """`int | None` as INT|null, a Literal as its words, `tuple[int, ...]` as [INT, ...]."""
    from data_pipeline.paths import PathText, UserPath

    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint in (PathText, UserPath):
        return WORDS[Path]
    if origin is typing.Annotated:  # a number with its range
        return _type_text(parts[0])
    if origin in (typing.Union, types.UnionType):
        return "|".join(_type_text(part) for part in parts)
    if origin is Literal:
        return "|".join(map(str, parts))
    if origin is dict:
        key = "NAME" if typing.get_origin(parts[0]) is Literal else _type_text(parts[0])
        return f"{{{key}: {_type_text(parts[1])}, ...}}"
    if origin is tuple and parts[-1] is not Ellipsis:
        return f"[{', '.join(map(_type_text, parts))}]"
    if origin in (list, tuple):
        return f"[{_type_text(parts[0])}, ...]"
    if dataclasses.is_dataclass(hint):
        return "{...}"
    return WORDS[hint]


def _yaml_text(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}"
    from data_pipeline.config import as_tree

    plain = _lists(as_tree(value))
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(part) for key, part in value.items()}
    return [_lists(part) for part in value] if isinstance(value, list | tuple) else value
