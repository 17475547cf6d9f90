"""Typed configuration: frozen dataclasses filled from YAML, then from `key=value` overrides.

    config = load_config(PretrainConfig, "configs/pretrain/tiny.yaml", ["optim.steps=200"])

A value of the wrong type is an error that names the key; an unknown key is an error that names
the nearest one there is. The entry points of all three stages use it.
"""

import argparse
import dataclasses
import difflib
import re
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

Config = TypeVar("Config")


class ConfigError(ValueError):
    """A config file or an override that cannot be used as it stands."""


def load_config(cls: type[Config], path: str | Path | None, overrides: list[str]) -> Config:
    """Read `path` (None: the defaults alone), apply `overrides`, return a checked `cls`.

    Overrides are `a.b=value` or `--a.b=value`, and replace what stood at that key. Values are YAML,
    so `null`, `1e-4` and `[1, 2]` mean what they look like; those of text and paths are taken
    letter by letter.
    """
    tree: dict[str, Any] = {}
    where = "the command line"
    if path is not None:
        where = str(path)
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(f"no config file {path}; see configs/ for those that ship") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the config file {path}: {error}") from error
        try:
            tree = yaml.load(text, Loader=_Loader) or {}
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not YAML: {error}") from error
        if not isinstance(tree, dict):
            raise ConfigError(f"{path} holds a {type(tree).__name__}, expected `key: value` lines")
    _check_keys(cls, tree, where, ())
    for override in overrides:
        keys, value = _parse_override(cls, override)
        nested = value
        for key in reversed(keys):
            nested = {key: nested}
        _check_keys(cls, nested, override, ())
        _replace(tree, keys, value)
    try:
        return TypeAdapter(cls).validate_python(tree)
    except ValidationError as error:
        if path is not None and overrides:
            where += " with the command line"
        raise ConfigError(f"{where}:\n" + "\n".join(map(_describe, error.errors()))) from error


def dump_config(config: Any) -> str:
    """The resolved config as YAML that `load_config` reads back to an equal object."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def parse_command_line(
    description: str, argv: list[str] | None = None
) -> tuple[str | None, list[str]]:
    """`--config FILE` and overrides as `key=value`, `--key=value` or `--key value`."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog="Any setting of the YAML can be given as key=value, e.g. optim.steps=200.",
    )
    parser.add_argument("--config", help="YAML file; see configs/")
    # Launchers (deepspeed, torchrun's older form) append it; ranks are read from the environment.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    known, rest = parser.parse_known_args(argv)
    overrides = []
    words = iter(rest)
    for word in words:
        if word.startswith("--") and "=" not in word:
            value = next(words, None)
            if value is None:
                raise ConfigError(f"{word} stands without a value; write {word[2:]}=VALUE")
            word = f"{word}={value}"
        overrides.append(word)
    return known.config, overrides


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 5e-5 as a string; every reader of a config means the number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _parse_override(cls: type, override: str) -> tuple[list[str], Any]:
    name, equals, value = override.removeprefix("--").partition("=")
    if not equals or not name:
        raise ConfigError(f"cannot read {override!r}; write key=value, e.g. optim.steps=200")
    keys = name.split(".")
    quoted = value[:1] in ("'", '"')
    if _is_text(cls, keys) and not quoted and value != "null":
        return keys, value
    try:
        return keys, yaml.load(value, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not YAML: {error}") from error


def _is_text(cls: type, keys: list[str]) -> bool:
    """Whether the setting takes text or a path, where `take #2` and `2024` are no YAML."""
    kinds: tuple[Any, ...] = (cls,)
    for key in keys:
        owner = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        hint = typing.get_type_hints(owner).get(key) if owner is not None else None
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds = typing.get_args(hint) if is_union else (hint,)
    return {str, Path, types.NoneType}.issuperset(kinds)


def _replace(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    *parents, last = keys
    for key in parents:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[last] = value


def _describe(error: Any) -> str:
    """A line of pydantic's findings; a check over several fields has no value of its own."""
    name = ".".join(map(str, error["loc"]))
    message = error["msg"].removeprefix("Value error, ")
    found = "" if isinstance(error["input"], dict) else f" (found {error['input']!r})"
    return f"  {name}: {message}{found}" if name else f"  {message}{found}"


def _check_keys(cls: type, tree: dict[str, Any], where: str, path: tuple[str, ...]) -> None:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key, value in tree.items():
        name = ".".join((*path, str(key)))
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.0)
            hint = ".".join((*path, near[0]))
            raise ConfigError(f"{where}: there is no setting {name!r}; the nearest is {hint!r}")
        for kind in (hints[key], *typing.get_args(hints[key])):
            if dataclasses.is_dataclass(kind) and isinstance(value, dict):
                _check_keys(kind, value, where, (*path, key))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
