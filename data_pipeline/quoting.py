"""Words that YAML takes for numbers, truth values or nothing, such as the labels 0 and 1, yes and
no: where a setting wants text, this says how the line should be."""

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import yaml

Location = tuple[Any, ...]
"""As pydantic tells it: keys and indices; (..., key, "[key]") is the key itself."""


def quoted_lines(
    errors: Iterable[Any], files: list[tuple[str, Location, str]], loader: type[yaml.SafeLoader]
) -> list[str]:
    """A line of advice for each line of YAML that has such words where text belongs.

    errors: pydantic's findings. files: (name, where its value lies in the config, its YAML), a
    later one before those that it overrides; a name that ends in "=" is an override, which has one
    line and no number.
    """
    spots: dict[tuple[str, int], set[tuple[int, int]]] = defaultdict(set)
    texts = {name: text for name, _, text in files}
    for error in errors:
        if error["type"] != "string_type" or isinstance(error["input"], dict | list):
            continue
        for name, prefix, text in files:
            found = _find(text, error["loc"][len(prefix) :], loader)
            if error["loc"][: len(prefix)] == prefix and found is not None:
                start, end = found.start_mark, found.end_mark
                spots[name, start.line].add((start.column, end.column))
                break
    return [
        _advice(name, line, texts[name].splitlines()[line], columns)
        for (name, line), columns in spots.items()
    ]


def as_yaml(paths: Iterable[object]) -> str:
    """A YAML list of texts or paths, which may hold spaces, commas and signs."""
    return json.dumps([str(path) for path in paths], ensure_ascii=False)


def _advice(name: str, line: int, text: str, columns: set[tuple[int, int]]) -> str:
    words = dict.fromkeys(text[start:end] for start, end in sorted(columns))
    for start, end in sorted(columns, reverse=True):
        text = f'{text[:start]}"{text[start:end]}"{text[end:]}'
    where = f"write '{name}{text}'" if name.endswith("=") else f"line {line + 1} of {name}: {text}"
    return f"  put {', '.join(words)} in quotes, or YAML reads something else than text; {where}"


def _find(text: str, steps: Location, loader: type[yaml.SafeLoader]) -> yaml.ScalarNode | None:
    """The scalar at `steps`; None where there is none."""
    node = yaml.compose(text, Loader=loader)
    wants_key = steps[-1:] == ("[key]",)
    steps = steps[:-1] if wants_key else steps
    for number, step in enumerate(steps, 1):
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step] if step < len(node.value) else None
        elif isinstance(node, yaml.MappingNode):
            key, value = next(
                (pair for pair in node.value if _value(pair[0], loader) == step), (None, None)
            )
            node = key if wants_key and number == len(steps) else value
        else:
            return None
    return node if isinstance(node, yaml.ScalarNode) else None


def _value(node: yaml.Node, loader: type[yaml.SafeLoader]) -> Any:
    """What YAML makes of a key."""
    maker = loader("")
    try:
        return maker.construct_object(node, deep=True)
    finally:
        maker.dispose()
