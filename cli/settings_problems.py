"""What is wrong with variables of the environment that settings are read from, for people."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError
from pydantic_settings import BaseSettings

REMEDY = "Correct or unset the variable."


def problems_of(error: ValidationError) -> list[str]:
    """One sentence for each refused variable, with its name; none if `error` is not about settings."""
    prefixes = {kind.__name__: str(kind.model_config.get("env_prefix", "")) for kind in _kinds(BaseSettings)}
    prefix = prefixes.get(error.title)
    if prefix is None:
        return []
    problems = []
    for problem in error.errors(include_url=False, include_input=False):
        if problem["type"] == "default_factory_not_called":  # which follows from another problem
            continue
        reason = problem["msg"].removeprefix("Value error, ").removesuffix(".")
        place = "_".join(str(part) for part in problem["loc"])
        problems.append(f"{prefix}{place}".upper() + f": {reason}." if place else f"{reason}.")
    return problems


def _kinds(kind: type[BaseSettings]) -> Iterator[type[BaseSettings]]:
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)
