"""`--set group.name=value`: dotted names of the training spec, with a suggestion for the mistyped ones."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cli.errors import WrongUseError

Settings = dict[str, dict[str, Any]]  # group -> name -> value

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting of the training spec, such as optimization.epochs=4 or guidance.radius=0.1. Repeatable.",
    ),
]
Method = Literal["sgg", "supervised"]
MethodOption = Annotated[
    Method | None, typer.Option(help="`sgg` is guided; `supervised` is plain LoRA.  [default: sgg]")
]
DEFAULT_METHOD: Method = "sgg"  # chosen late: beside --spec it would not be known who gave it
SpecOption = Annotated[
    Path | None,
    typer.Option("--spec", help="The whole job as YAML or JSON, with the fields of the HTTP API; files by path or id."),
]


def setting_names() -> tuple[str, ...]:
    """Return all names that `--set` knows, such as `lora.rank`, in the order of the spec."""
    from sgg_core.spec import SettingsGroup, TrainingSpec

    groups = {
        name: field.annotation
        for name, field in TrainingSpec.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, SettingsGroup)
    }
    return tuple(f"{group}.{name}" for group, annotation in groups.items() for name in annotation.model_fields)


def parse_settings(assignments: Iterable[str]) -> Settings:
    """Parse `group.name=value` items; values are JSON, or else strings. Raises CliError naming all that are wrong."""
    known = setting_names()
    settings: Settings = {}
    wrong: list[WrongUseError] = []
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        group, _, field = name.partition(".")
        if not equals:
            wrong.append(WrongUseError(f"--set {assignment!r} has no value.", "Write --set name=value."))
        elif name not in known:
            wrong.append(WrongUseError(f"There is no setting {name!r}.", _suggestion(name, known)))
        elif field in settings.setdefault(group, {}):
            wrong.append(WrongUseError(f"--set {name} is given twice.", "Keep one of them."))
        else:
            settings[group][field] = _value(text.strip())
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        raise WrongUseError("\n".join(str(each) for each in wrong))
    return settings


def settings_from(settings: Settings, start: Path | None) -> Settings:
    """Fill the adapter's settings in from the one to start from, where they were not chosen.

    Raises StartingPointError if it cannot be read.
    """
    if start is None:
        return settings
    from sgg_core.adapter_file import facts_of

    return settings | {"lora": facts_of(start).lora() | settings.get("lora", {})}


def build_spec(base_model: str, method: str, seed: int, settings: Settings) -> Any:
    """Return the TrainingSpec. Raises CliError naming every setting that is out of bounds."""
    from pydantic import ValidationError

    from sgg_core.spec import TrainingSpec

    try:
        return TrainingSpec.model_validate({"base_model": base_model, "method": method, "seed": seed, **settings})
    except ValidationError as error:
        raise WrongUseError(_bounds(error.errors()), "Correct these values.") from error


def to_request(settings: Settings) -> dict[str, Any]:
    """Return the settings as `hyperparameters` of the HTTP API: OpenAI's names on top, the other groups nested."""
    optimization = dict(settings.get("optimization", {}))
    hyperparameters: dict[str, Any] = {
        ("n_epochs" if name == "epochs" else name): value for name, value in optimization.items()
    }
    return hyperparameters | {group: values for group, values in settings.items() if group != "optimization"}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None if text.lower() == "none" else text


def _suggestion(name: str, known: tuple[str, ...]) -> str:
    if name in {"seed", "base_model", "method"}:
        return f"Use --{name.replace('_', '-')}."
    same_field = [full for full in known if full.partition(".")[2] == name.rpartition(".")[2]]
    close = same_field or difflib.get_close_matches(name, known, n=1, cutoff=0.5) or _close_field(name, known)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known settings: {', '.join(known)}."


def _close_field(name: str, known: tuple[str, ...]) -> list[str]:
    fields = {full.partition(".")[2]: full for full in known}
    return [fields[field] for field in difflib.get_close_matches(name.rpartition(".")[2], fields, n=1)]


def _bounds(errors: Iterable[Any]) -> str:
    """Name each refused setting once: a union of types reports one error for each of its branches."""
    reasons: dict[str, list[str]] = {}
    for error in errors:
        # spec groups nest two deep; what follows in `loc` names the branch of a union
        place = ".".join(str(part) for part in error["loc"][:2])
        reasons.setdefault(place, [])
        if error["msg"] not in reasons[place]:
            reasons[place].append(error["msg"])
    return "; ".join(f"{place}: {' or '.join(messages)}" for place, messages in reasons.items()) + "."
