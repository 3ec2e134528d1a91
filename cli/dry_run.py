"""What a dry run found, for people."""

from __future__ import annotations

from typing import Any

import typer

from cli.output import print_facts, print_json, say, size, what_it_shows


def print_dry_run(told: dict[str, Any], *, as_json: bool) -> None:
    """Print a dry run's answer; the exit code is 1 if the job would be refused, or would fail."""
    if as_json:
        print_json(told)
    else:
        print_facts(_facts(told))
        for finding in told["findings"]:
            style = "red" if finding["severity"] == "error" else "yellow"
            place = ", ".join(_place(finding))
            words = f"{finding['reason']} {finding['remedy']}".strip()
            say(f"{finding['severity']}: {place}: {words}" if place else f"{finding['severity']}: {words}", style=style)
    if not told["valid"]:
        raise typer.Exit(1)


def _facts(told: dict[str, Any]) -> tuple[tuple[str, object], ...]:
    data, estimate, queue = told["data"] or {}, told["estimate"] or {}, told["queue"]
    chosen, shown = told["hyperparameters"] or {}, told["smallest_difference"]
    labels = ", ".join(f"{label} {count}" for label, count in (data.get("labels") or {}).items())
    memory, steps = estimate.get("peak_memory_bytes"), estimate.get("steps")
    return (
        ("request", "is good; no job was made" if told["valid"] else "would be refused, or would fail"),
        ("examples", data.get("examples")),
        ("labels", labels or None),
        ("cut texts", data.get("truncated") or None),
        ("batch size", chosen.get("batch_size")),
        ("learning rate", chosen.get("learning_rate")),
        ("steps", f"{steps} in {estimate['epochs']} epochs" if steps else None),
        ("tokens", _tokens(estimate.get("tokens"), data.get("tokens"))),
        ("peak memory", f"about {size(memory)}" if memory else None),
        ("takes", _range(estimate.get("seconds"))),
        ("place in queue", queue["position"]),
        ("starts in", _range(queue["starts_in_seconds"])),
        ("can show", what_it_shows(shown) if shown else None),
    )


def _tokens(learned: int | None, in_file: int | None) -> str | None:
    if not learned:
        return None
    return f"{learned:,} learned" + (f", {in_file:,} in the file" if in_file else "")


def _range(seconds: dict[str, float] | None) -> str | None:
    if seconds is None:
        return None
    low, expected, high = (_duration(seconds[name]) for name in ("low", "expected", "high"))
    return expected if low == high else f"{expected} ({low} to {high})"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _place(finding: dict[str, Any]) -> list[str]:
    named = [finding["param"]] if finding["param"] else []
    if finding["line"] is not None:
        named.append(f"line {finding['line']}")
    if finding["field"]:
        named.append(f"field {finding['field']!r}")
    return named
