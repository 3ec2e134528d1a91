"""YAML with the numbers of JSON, without doubled keys, and with the line of every field."""

from __future__ import annotations

import re

import yaml


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which reads 5e-4 as the number that JSON takes it for."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), [*"-+0123456789"]
)


def lines_of(node: yaml.Node | None, path: str = "") -> dict[str, int]:
    """Return the line, counted from 1, of every field by its dotted path. Raises MarkedYAMLError for a doubled key."""
    found: dict[str, int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = f"{path}.{key.value}".lstrip(".")
            if place in found:
                raise yaml.MarkedYAMLError(problem=f"the field {place} occurs twice", problem_mark=key.start_mark)
            found[place] = key.start_mark.line + 1
            found |= lines_of(value, place)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            found[f"{path}.{index}"] = value.start_mark.line + 1
            found |= lines_of(value, f"{path}.{index}")
    return found
