"""The HTTP API as its own schema describes it: paths with scopes, then every shape of a request or an answer."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

Schema = dict[str, Any]


@functools.cache
def schema() -> Schema:
    """Return what /openapi.json holds."""
    from api.app import create_app
    from api.settings import ApiSettings

    return create_app(ApiSettings(data_dir=Path("/nonexistent"))).openapi()


def routes() -> str:
    """Give a table of all paths with the scope that each needs."""
    rows = ["| path | scope | what it does |", "|---|---|---|"]
    for verb, path, operation in _operations():
        rows.append(f"| [`{verb} {path}`](#{_anchor(verb, path)}) | {_scope(operation)} | {_told(operation)} |")
    return "\n".join(rows)


def reference() -> str:
    """Describe every path by the part of the service it belongs to, and then every shape."""
    parts: list[str] = []
    tag = None
    for verb, path, operation in _operations():
        if operation["tags"][0] != tag:
            tag = operation["tags"][0]
            parts.append(f"## {tag[0].upper()}{tag[1:]}\n")
        parts.append(_operation(verb, path, operation))
    parts.append("## Shapes\n")
    parts += [_shape(name, shape) for name, shape in sorted(shapes().items())]
    return "\n".join(parts)


def shapes() -> dict[str, Schema]:
    """Return every named shape, those of requests' bodies among them."""
    found = dict(schema()["components"]["schemas"])
    for _, _, operation in _operations():
        for content in operation.get("requestBody", {}).get("content", {}).values():
            found |= content["schema"].get("$defs", {})
    return found


def _operations() -> list[tuple[str, str, Schema]]:
    return [
        (verb.upper(), path, operation)
        for path, operations in schema()["paths"].items()
        for verb, operation in operations.items()
    ]


def _operation(verb: str, path: str, operation: Schema) -> str:
    lines = [f"### `{verb} {path}` {{ #{_anchor(verb, path)} }}\n", f"{_told(operation)} Scope: {_scope(operation)}.\n"]
    parameters = operation.get("parameters", [])
    if parameters:
        rows = [
            (one["name"], one["in"], _type(one["schema"]), one.get("description") or one["schema"].get("description"))
            for one in parameters
        ]
        lines.append(_table(("parameter", "in", "type", "meaning"), rows))
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        lines.append(f"Body, `{kind}`:\n\n{_fields(content['schema'])}")
    for status, answer in operation["responses"].items():
        if int(status) < 300:
            shown = [
                _type(content["schema"]) for content in answer.get("content", {}).values() if content.get("schema")
            ]
            lines.append(f"Answer {status}: {' or '.join(dict.fromkeys(shown)) or answer['description']}\n")
    return "\n".join(lines)


def _shape(name: str, shape: Schema) -> str:
    about = " ".join(shape.get("description", "").split())
    return f"### {_plain(name)} {{ #shape-{name} }}\n\n{about}\n\n{_fields(shape)}"


def _plain(name: str) -> str:
    """Leave out what FastAPI adds to names that two modules share, and to those of lists."""
    return name.rsplit("__", 1)[-1].strip("_").replace("_", " of ")


def _fields(shape: Schema) -> str:
    if "properties" not in shape:
        return f"{_type(shape)}\n"
    required = shape.get("required", [])
    rows = [
        (name, _type(field), "yes" if name in required else _default(field), field.get("description"))
        for name, field in shape["properties"].items()
    ]
    return _table(("field", "type", "required, or default", "meaning"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for first, *rest in rows:
        cells = [f"`{first}`", *(" ".join(str(cell or "").split()).replace("|", "\\|") for cell in rest)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _type(shape: Schema) -> str:
    """Say in words what a value may be."""
    if "$ref" in shape:
        name = shape["$ref"].rsplit("/", 1)[-1]
        return f"[{_plain(name)}](#shape-{name})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in shape:
            return " or ".join(dict.fromkeys(_type(one) for one in shape[key]))
    if "const" in shape:
        return f"`{shape['const']}`"
    if "enum" in shape:
        return ", ".join(f"`{value}`" for value in shape["enum"])
    kind = shape.get("type", "anything")
    if kind == "array":
        return f"list of {_type(shape.get('items', {}))}"
    if kind == "object" and isinstance(shape.get("additionalProperties"), dict):
        return f"names to {_type(shape['additionalProperties'])}"
    return f"{kind}{_bounds(shape)}"


def _bounds(shape: Schema) -> str:
    low = shape.get("minimum", shape.get("minLength"))
    high = shape.get("maximum", shape.get("maxLength"))
    above, below = shape.get("exclusiveMinimum"), shape.get("exclusiveMaximum")
    told = [
        f"at least {_number(low)}" if low is not None else "",
        f"above {_number(above)}" if above is not None else "",
        f"at most {_number(high)}" if high is not None else "",
        f"below {_number(below)}" if below is not None else "",
    ]
    what = " characters" if "minLength" in shape or "maxLength" in shape else ""
    told = [one for one in told if one]
    return f" ({', '.join(told)}{what})" if told else ""


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else str(value)


def _default(field: Schema) -> str:
    value = field.get("default")
    return f"`{value}`" if isinstance(value, str | int | float) else ""


def _told(operation: Schema) -> str:
    return " ".join(operation.get("description", "").split())


def _scope(operation: Schema) -> str:
    scopes = [scope for requirement in operation["security"] for scope in requirement["key"]]
    return f"`{scopes[0]}`" if scopes else "none"


def _anchor(verb: str, path: str) -> str:
    return f"{verb.lower()}{path}".replace("/", "-").replace("{", "").replace("}", "").replace("_", "-")
