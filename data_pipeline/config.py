"""Typed configuration: frozen dataclasses filled from YAML, then from `key=value` overrides.

    config = load_config(PretrainConfig, "configs/pretrain/tiny.yaml", ["optim.steps=200"])

The defaults lie below, the YAML on top of them, the overrides on top of both:

- a section (a dataclass, such as `optim`), and a map whose names are fixed or that is marked with
  `field(metadata={"merges": True})` (such as `data.limits`), keep what is not named;
  A field marked with `sections`, a function from such a name to a dataclass (as the extractors of
  `streams`), holds those dataclasses' settings; `check_settings` checks them;
- any other value, lists and maps of the user's own names (such as `data.labels`) among them, is
  replaced whole, but `map.name=value` changes one entry and keeps the others.

A value of the wrong type is an error that names the key; an unknown key is an error that names
the nearest one there is. The entry points of all three stages use it.
"""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from data_pipeline.errors import UserError
from data_pipeline.quoting import quoted_lines

Config = TypeVar("Config")
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
ShareOrAll = Annotated[float, Field(ge=0, le=1)]
"""Types of settings, beside pydantic's PositiveInt and NonNegativeInt."""


class ConfigError(UserError):
    """A config file or an override that cannot be used as it stands."""


def load_config(
    cls: type[Config],
    path: str | Path | None,
    overrides: list[str],
    renew: Callable[[dict[str, Any]], dict[str, Any]] = lambda settings: settings,
) -> Config:
    """Read `path` (None: the defaults alone), apply `overrides`, return a checked `cls`.

    Overrides are `a.b=value` or `--a.b=value`. Values are YAML, so `null`, `1e-4` and `[1, 2]`
    mean what they look like; those of text and paths are taken letter by letter.

    A field that was renamed says so in its metadata: `field(metadata={"formerly": {"old_name":
    "what else has changed"}})` makes the old name an error that names the new one. `renew` changes
    what `path` says first: for files that the code wrote, under the names that it had then.
    """
    tree = _defaults(cls)
    where = "the command line"
    if path is not None:
        where = str(path)
        _lay(cls, tree, renew(_read_yaml(path)), where, ())
    for override in overrides:
        keys, value = _parse_override(cls, override)
        for key in reversed(keys):
            value = _Entry({key: value})
        _lay(cls, tree, value, override, ())
    if path is not None and overrides:
        where += " with the command line"
    mistakes = [f"  {line}" for line in _mistakes(cls, tree, ())]
    if mistakes:
        raise ConfigError("\n".join([f"{where}:", *mistakes]))
    try:
        return TypeAdapter(cls).validate_python(tree)
    except ValidationError as error:
        lines = [*map(_describe, error.errors()), *_quoting(error, path, overrides)]
        raise ConfigError("\n".join([f"{where}:", *lines])) from error


def check_settings(cls: type[Config], said: dict[str, Any], *path: str) -> Config:
    """A `cls` from the settings said in a map that lies at `path`, such as ("streams", "fbank").

    Raises ConfigError.
    """
    tree = _defaults(cls)
    _lay(cls, tree, said, path[0], path)
    mistakes = [*_mistakes(cls, tree, path)]
    if mistakes:
        raise ConfigError("\n  ".join(mistakes))
    try:
        return TypeAdapter(cls).validate_python(tree)
    except ValidationError as error:
        lines = [_describe({**e, "loc": (*path, *e["loc"])}).strip() for e in error.errors()]
        raise ConfigError("\n  ".join(lines)) from error


def dump_config(config: Any) -> str:
    """The resolved config as YAML that `load_config` reads back to an equal object."""
    return yaml.dump(_plain(dataclasses.asdict(config)), Dumper=_Dumper, sort_keys=False)


def section_of(hint: Any) -> type | None:
    """The dataclass that a field of this type takes, if any."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = typing.get_args(hint) if is_union else (hint,)
    return next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)


def as_tree(value: Any) -> Any:
    """Sections as dicts, everything else as it is."""
    if not dataclasses.is_dataclass(value):
        return value
    return {f.name: as_tree(getattr(value, f.name)) for f in dataclasses.fields(value)}


class _Entry(dict[str, Any]):
    """A map on the way to what an override names: entries beside that one stay."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1, less its surprises: 5e-5 is a number, 010 is ten, and a key that stands twice is an
    error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key {key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)

    def construct_whole_number(self, node: Any) -> int:
        digits = node.value.replace("_", "")
        return int(digits) if digits.lstrip("+-").isdigit() else self.construct_yaml_int(node)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever `_Loader` would not take for text."""


_NUMBER = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole_number)


def _read_yaml(path: str | Path) -> dict[str, Any]:
    if not str(path).strip():
        raise ConfigError("--config has an empty name; give a YAML file, see configs/")
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
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
    return tree


def _parse_override(cls: type, override: str) -> tuple[list[str], Any]:
    name, equals, value = override.removeprefix("--").partition("=")
    if not equals or not name:
        raise ConfigError(f"cannot read {override!r}; write key=value, e.g. {_example(cls)}")
    if not value.strip():
        raise ConfigError(
            f"{override} has no value (an unset shell variable?); write {name}=VALUE, or leave it "
            "out"
        )
    keys = name.split(".")
    quoted = value[:1] in ("'", '"')
    if _is_text(cls, keys) and not quoted and value != "null":
        return keys, value
    try:
        return keys, yaml.load(value, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not YAML: {error}") from error


def _example(cls: type) -> str:
    """A setting of this very config, with its default."""
    for name, value in _defaults(cls).items():
        if isinstance(value, str | int | float):
            return f"{name}={value}"
        if isinstance(value, dict) and value:
            inner, what = next(iter(value.items()))
            return f"{name}.{inner}={what}"
    return f"{dataclasses.fields(cls)[0].name}=VALUE"


def _is_text(cls: type, keys: list[str]) -> bool:
    """Whether the setting takes text or a path, where `take #2` and `2024` are no YAML."""
    kinds: tuple[Any, ...] = (cls,)
    sections = None
    for key in keys:
        if sections is not None:
            kinds, sections = (sections(key),), None
            continue
        owner = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        fields = {f.name: f for f in dataclasses.fields(owner)} if owner is not None else {}
        sections = fields[key].metadata.get("sections") if key in fields else None
        hint = typing.get_type_hints(owner).get(key) if owner is not None else None
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds = typing.get_args(hint) if is_union else (hint,)
    return {str, Path, types.NoneType}.issuperset(kinds)


def _defaults(cls: type) -> dict[str, Any]:
    """The settings of `cls` that need not be given, as a tree."""
    tree = {}
    for f in dataclasses.fields(cls):
        if f.default is not dataclasses.MISSING:
            tree[f.name] = as_tree(f.default)
        elif f.default_factory is not dataclasses.MISSING:
            tree[f.name] = as_tree(f.default_factory())
    return tree


def _lay(
    cls: type, tree: dict[str, Any], new: dict[Any, Any], where: str, path: tuple[str, ...]
) -> None:
    """Lay `new` on the `tree` of a `cls`; see the top of this file for what stays of it."""
    hints = typing.get_type_hints(cls)
    merging = {f.name for f in dataclasses.fields(cls) if f.metadata.get("merges")}
    for key, value in new.items():
        _check_name(cls, list(hints), key, where, path)
        below, hint = tree.get(key), hints[key]
        section, names = section_of(hint), _fixed_names(hint)
        if section is not None and isinstance(value, dict):
            below = below if isinstance(below, dict) else _defaults(section)
            _lay(section, below, value, where, (*path, key))
            tree[key] = below
        elif section is not None and value is None and isinstance(below, dict):
            continue  # a heading with nothing under it
        elif names and isinstance(value, dict):
            for name in value:
                _check_name(cls, names, name, where, (*path, key))
            tree[key] = {**(below or {}), **value}
        elif isinstance(value, _Entry) and dict not in map(typing.get_origin, _kinds(hint)):
            name = ".".join((*path, key))
            raise ConfigError(f"{where}: {name} is one value and has no settings below it")
        elif isinstance(below, dict) and (
            isinstance(value, _Entry) or (key in merging and isinstance(value, dict))
        ):
            tree[key] = _merged(below, value, whole=key not in merging)
        else:
            tree[key] = value


def _merged(below: dict[str, Any], new: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    """`new` on `below`; an entry that an override does not name further down is replaced `whole`,
    or merged likewise."""
    found = dict(below)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        into = both and (isinstance(value, _Entry) or not whole)
        found[key] = _merged(below[key], value, whole=whole) if into else value
    return found


def _fixed_names(hint: Any) -> list[str]:
    """Of a dict[Literal[...], value]: what its keys may be; of anything else: none."""
    if typing.get_origin(hint) is not dict:
        return []
    keys = typing.get_args(hint)[0]
    return list(typing.get_args(keys)) if typing.get_origin(keys) is Literal else []


def _check_name(cls: type, names: list[str], key: Any, where: str, path: tuple[str, ...]) -> None:
    if key in names:
        return
    full = ".".join((*path, str(key)))
    for f in dataclasses.fields(cls):
        note = f.metadata.get("formerly", {}).get(key)
        if note is not None:
            renamed = ".".join((*path, f.name))
            raise ConfigError(f"{where}: {full!r} is now called {renamed!r}; {note}")
    if not names:
        above = ".".join(path)
        raise ConfigError(f"{where}: there is no setting {full!r}; {above} has nothing to set")
    near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.0)
    hint = ".".join((*path, near[0]))
    raise ConfigError(f"{where}: there is no setting {full!r}; the nearest is {hint!r}")


def _mistakes(cls: type, tree: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """What pydantic would take for something else: `true` for 1, no text for a text."""
    hints = typing.get_type_hints(cls)
    for key, value in tree.items():
        section = section_of(hints[key])
        if section is not None and isinstance(value, dict):
            yield from _mistakes(section, value, (*path, key))
            continue
        kinds = set(_kinds(hints[key]))
        for name, leaf in _leaves(value, ".".join((*path, key))):
            if isinstance(leaf, str) and not leaf.strip():
                yield f"{name} is empty; write a value, or leave it out"
            elif isinstance(leaf, bool) and bool not in kinds and kinds & {int, float}:
                yield f"{name} is {str(leaf).lower()}; expected a number"
            elif isinstance(leaf, float) and math.isnan(leaf):
                yield f"{name} is nan; expected a number"


def _kinds(hint: Any) -> Iterator[Any]:
    """All that a type is made of."""
    yield hint
    for part in typing.get_args(hint):
        yield from _kinds(part)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _leaves(part, f"{name}.{number}")
    else:
        yield name, value


def _describe(error: Any) -> str:
    """A line of pydantic's findings; a check over several fields has no value of its own."""
    name = ".".join(map(str, error["loc"]))
    message, value, kind = error["msg"].removeprefix("Value error, "), error["input"], error["type"]
    if kind == "missing":
        return f"  {name} is not given; write {name}=VALUE"
    found = "" if isinstance(value, dict) else f" (found {value!r})"
    if kind in ("list_type", "tuple_type") and isinstance(value, str | int | float):
        found += f"; a list needs brackets: {name}=[{value}]"
    return f"  {name}: {message}{found}" if name else f"  {message}{found}"


def _quoting(error: ValidationError, path: str | Path | None, overrides: list[str]) -> list[str]:
    """Advice where a word such as 0 or yes stands without quotes for text."""
    texts: list[tuple[str, tuple[Any, ...], str]] = []
    for override in reversed(overrides):
        name, _, value = override.removeprefix("--").partition("=")
        texts.append((f"{name}=", tuple(name.split(".")), value))
    if path is not None:
        texts.append((str(path), (), Path(path).read_text(encoding="utf-8")))
    return quoted_lines(error.errors(), texts, _Loader)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
