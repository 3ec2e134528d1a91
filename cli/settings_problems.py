"""What is wrong with variables of the environment that settings are read from, for people."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from cli.errors import CliError, WrongUseError

REMEDY = "Correct or unset the variable."


def require_settings(*kinds: type[BaseSettings]) -> None:
    """Raise CliError that names all wrong variables of a process that reads these kinds, before it has begun."""
    from sgg_store.logs import LogSettings
    from sgg_store.settings import S3Settings

    of_objects = (S3Settings,) if os.environ.get("SGG_OBJECT_STORE_URL", "").startswith("s3:") else ()
    problems = [problem for kind in (*kinds, *of_objects, LogSettings) for problem in refused_by(kind)]
    if problems:
        raise refusal(problems)


def refusal(problems: Iterable[str]) -> CliError:
    """The failure of a command whose variables are wrong; kinds of settings share some."""
    return WrongUseError("\n".join(dict.fromkeys(problems)), REMEDY)


def refused_by(kind: type[BaseSettings]) -> list[str]:
    """What is wrong with the variables that such settings are read from."""
    try:
        kind()
    except ValidationError as error:
        return problems_of(error)
    return []


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
