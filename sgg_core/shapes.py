"""The shapes an example can have, and the step from a row of a file to one of them.

    {"text", "label"} and {"text", "text_pair", "label"}      classification
    {"prompt", "completion"}                                  completion
    {"messages": [{"role", "content", "weight"}]}             chat; `weight` 0 or 1, on assistant turns only

Unknown names are errors, since a misspelt field would otherwise be lost in silence. Whole numbers as labels are taken
as their decimal text, because CSV cannot tell the two apart.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from sgg_core.parsing import ProblemLog, Row, excerpt

Kind = Literal["classification", "completion", "chat"]
Role = Literal["system", "user", "assistant"]

REQUIRED: dict[Kind, tuple[str, ...]] = {
    "classification": ("text", "label"),
    "completion": ("prompt", "completion"),
    "chat": ("messages",),
}
OPTIONAL: dict[Kind, tuple[str, ...]] = {"classification": ("text_pair",), "completion": (), "chat": ()}
ACCEPTED = "text + label (+ text_pair), prompt + completion, or messages"
PAIRS = ("preferred_output", "preferred_completion", "non_preferred_output", "non_preferred_completion")
UNSUPPORTED = {
    **dict.fromkeys(("tools", "functions", "parallel_tool_calls", "tool_calls", "function_call"), "Tool calls"),
    **dict.fromkeys(PAIRS, "Preference pairs"),
    **{"refusal": "Refusals", "audio": "Recordings", "annotations": "Annotations"},
}
UNSUPPORTED_PARTS = {
    **dict.fromkeys(("image_url", "input_image", "image"), "Images"),
    **{"input_audio": "Recordings", "file": "Files", "input_file": "Files", "refusal": "Refusals"},
}

REMOVE = "Remove this field, or this example."


@dataclass(frozen=True)
class Limits:
    """Upper bounds on one data file. Lengths are in characters."""

    max_bytes: int = 50 * 2**20
    max_rows: int = 50_000
    max_field_chars: int = 100_000
    max_labels: int = 1_000
    max_label_chars: int = 200


@dataclass(frozen=True, slots=True)
class ClassificationExample:
    """A text, or a pair of texts, and its label."""

    text: str
    label: str
    text_pair: str | None = None


@dataclass(frozen=True, slots=True)
class CompletionExample:
    """A prompt and the text that should follow it."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn. `weight` 0 keeps an assistant's turn out of the loss; other roles never enter it."""

    role: Role
    content: str
    weight: int = 1


@dataclass(frozen=True, slots=True)
class ChatExample:
    """A conversation with at least one assistant's turn of weight 1."""

    messages: tuple[ChatMessage, ...]


Example: TypeAlias = ClassificationExample | CompletionExample | ChatExample


def characters(example: Example) -> int:
    """Number of characters of all texts of an example, its label left out."""
    if isinstance(example, ClassificationExample):
        return len(example.text) + len(example.text_pair or "")
    if isinstance(example, CompletionExample):
        return len(example.prompt) + len(example.completion)
    return sum(len(message.content) for message in example.messages)


def kind_of(names: frozenset[str]) -> Kind | None:
    """The kind whose fields these names are meant to be, complete or not; None if they resemble no kind."""
    for kind, required in REQUIRED.items():
        if names & {*required, *OPTIONAL[kind]}:
            return kind
    return None


def meant(fields: Mapping[str, object]) -> frozenset[str]:
    """The names of the fields that say something: OpenAI's clients write what an answer has not as null or empty."""
    names = frozenset(name for name, value in fields.items() if value or name not in UNSUPPORTED)
    if fields.get("parallel_tool_calls") is True and not names & {"tools", "functions"}:
        return names - {"parallel_tool_calls"}  # a wish about tools that there are none of
    return names


def check_names(line: int, fields: Mapping[str, object], log: ProblemLog) -> Kind | None:
    """The kind whose fields are all among a row's, else None. Missing and unknown ones are noted in `log`."""
    names = meant(fields)
    kind = kind_of(names)
    required = REQUIRED[kind] if kind else ()
    known = {*required, *OPTIONAL[kind]} if kind else {name for each in REQUIRED.values() for name in each}
    unknown = names - known
    if unknown & set(PAIRS):
        unknown -= {"input"}  # it is the prompt of the pair
    if names - {"messages"} - UNSUPPORTED.keys() and _leaves_answer_open(fields.get("messages")):
        reason = "This looks like reinforcement fine-tuning data, which is not supported."
        log.add(line, None, reason, "Write the assistant's answer as the last message, and no field beside messages.")
        return None
    for name in sorted(unknown):
        if log.full:  # to look for a name that is meant takes long
            break
        _note_unknown(line, name, known - names, log)
    for name in required:
        if name not in names:
            log.add(line, name, "The field is missing.", f"Accepted fields: {ACCEPTED}.")
    if not names:
        log.add(line, None, "The row has no fields.", f"Accepted fields: {ACCEPTED}.")
    return kind if names.issuperset(required) else None


def _leaves_answer_open(turns: object) -> bool:
    """Whether a conversation ends with the user's turn, for a grader to judge what the model answers."""
    last = turns[-1] if isinstance(turns, list) and turns else None
    return isinstance(last, dict) and last.get("role") == "user"


def build_example(row: Row, kind: Kind, limits: Limits, log: ProblemLog) -> Example | None:
    """The example a row of the given kind holds, or None after noting what is wrong with its values."""
    if kind == "chat":
        return _chat(row, limits, log)
    texts = {name: _text(row.line, name, row.fields[name], limits, log) for name in REQUIRED[kind] if name != "label"}
    if kind == "completion":
        prompt, completion = texts["prompt"], texts["completion"]
        return None if prompt is None or completion is None else CompletionExample(prompt, completion)
    label = _label(row, limits, log)
    pair = row.fields.get("text_pair") or None  # an empty CSV cell or null: no pair
    if pair is not None:
        pair = _text(row.line, "text_pair", pair, limits, log)
        if pair is None:
            return None
    text = texts["text"]
    return None if text is None or label is None else ClassificationExample(text, label, pair)


def _note_unknown(line: int, name: str, free: set[str], log: ProblemLog) -> None:
    if name in UNSUPPORTED:
        log.add(line, name, f"{UNSUPPORTED[name]} are not supported.", REMOVE)
        return
    close = difflib.get_close_matches(name.strip().lower(), sorted(free), n=1)
    remedy = f"Did you mean {close[0]!r}?" if close else "Remove it or rename it."
    log.add(line, excerpt(name)[1:-1], "The field is unknown.", f"{remedy} Accepted fields: {ACCEPTED}.")


def _text(line: int, name: str, value: object, limits: Limits, log: ProblemLog) -> str | None:
    """The value if it is a text that can be trained on."""
    if not isinstance(value, str):
        log.add(line, name, f"The value {excerpt(value)} is not a string.", "Write a string in double quotes.")
    elif not value or value.isspace():
        log.add(line, name, "The text is empty.", "Fill it in, or remove the example.")
    elif len(value) > limits.max_field_chars:
        log.add(
            line,
            name,
            f"The text has {len(value):,} characters; the limit is {limits.max_field_chars:,}.",
            "Shorten it, or split it into several examples.",
        )
    elif is_broken(value):
        log.add(line, name, "The text holds a NUL or half of a surrogate pair.", "Remove the broken character.")
    else:
        return value
    return None


def is_broken(text: str) -> bool:
    """Whether a text holds a NUL or half of a surrogate pair, which databases, files and tokenizers refuse."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return "\0" in text


def _label(row: Row, limits: Limits, log: ProblemLog) -> str | None:
    value = row.fields["label"]
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        log.add(row.line, "label", f"The label {excerpt(value)} is not a string.", 'Write a name, such as "billing".')
        return None
    label = _text(row.line, "label", value.strip(), limits, log)
    if label is None:
        return None
    if len(label) > limits.max_label_chars:
        log.add(
            row.line,
            "label",
            f"The label has {len(label):,} characters; the limit is {limits.max_label_chars:,}.",
            "Use a short name; what it means belongs in the task's description.",
        )
        return None
    if not label.isprintable():
        log.add(row.line, "label", f"The label {excerpt(label)} holds a line break or control character.", "Remove it.")
        return None
    return label


def _chat(row: Row, limits: Limits, log: ProblemLog) -> ChatExample | None:
    turns = row.fields["messages"]
    if not isinstance(turns, list) or not turns:
        log.add(
            row.line,
            "messages",
            "The list of messages is empty."
            if turns == []
            else f"The value {excerpt(turns)} is not a list of messages.",
            'Write a JSONL file with [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].',
        )
        return None
    messages = [_message(row.line, f"messages[{index}]", turn, limits, log) for index, turn in enumerate(turns)]
    complete = tuple(message for message in messages if message is not None)
    if len(complete) < len(messages):
        return None
    if not any(message.role == "assistant" and message.weight for message in complete):
        log.add(
            row.line,
            "messages",
            "There is no assistant message with weight 1, so there is nothing to learn.",
            "Add the assistant's answer, or remove the example.",
        )
        return None
    return ChatExample(complete)


def _content(line: int, place: str, value: object, limits: Limits, log: ProblemLog) -> str | None:
    """The text of a message's content if it can be trained on."""
    for part in value if isinstance(value, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            what = UNSUPPORTED_PARTS.get(kind, "Parts other than text")
            reason = f"{what} are not supported: a part has the type {excerpt(kind)}."
            log.add(line, place, reason, "Leave it out, or remove this example.")
            return None
    return _text(line, place, joined_parts(value), limits, log)


def joined_parts(content: object) -> object:
    """The text of a list of text parts, as OpenAI's clients may write it; anything else as it is."""
    if not isinstance(content, list) or not content:
        return content
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
        return content
    return "".join(map(str, texts))


def known_role(value: object) -> Role | None:
    """The role that is meant, if any; `developer` is OpenAI's newer word for `system`."""
    if value == "developer":
        return "system"
    return next((role for role in get_args(Role) if role == value), None)


def _message(line: int, place: str, turn: object, limits: Limits, log: ProblemLog) -> ChatMessage | None:
    before = len(log.problems)
    for name in sorted(meant(turn) & UNSUPPORTED.keys()) if isinstance(turn, dict) else ():
        log.add(line, f"{place}.{name}", f"{UNSUPPORTED[name]} are not supported.", REMOVE)
    if len(log.problems) > before:
        return None
    if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
        log.add(line, place, "The message is not an object with role and content.", "Write both, and weight if needed.")
        return None
    if turn.get("name") not in (None, ""):
        log.add(line, f"{place}.name", "Names of speakers are not supported.", "Leave `name` out.")
    for name in sorted(turn.keys() - {"role", "content", "weight", "name"} - UNSUPPORTED.keys()):
        log.add(line, f"{place}.{excerpt(name)[1:-1]}", "The field is unknown.", "Keep role, content and weight.")
    weight = turn.get("weight", 1)
    role = known_role(turn["role"])
    if role is None:
        log.add(
            line, f"{place}.role", f"The role {excerpt(turn['role'])} is unknown.", "Use system, user or assistant."
        )
    elif "weight" in turn and role != "assistant":
        log.add(line, f"{place}.weight", f"A {role} message has a weight.", "Keep weight on assistant messages only.")
    if isinstance(weight, bool) or weight not in (0, 1):
        log.add(line, f"{place}.weight", f"The weight {excerpt(weight)} is neither 0 nor 1.", "Write 0 or 1.")
    content = _content(line, f"{place}.content", turn["content"], limits, log)
    if role is None or content is None or len(log.problems) > before:
        return None
    return ChatMessage(role, content, int(weight))
