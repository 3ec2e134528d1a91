"""`sgg predict --model`: the same questions, answered by a server's workers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cli.client import Client
from cli.errors import ApiError, CliError

BATCH = 16  # rows of one request, of the 32 that it may have
MOST_BYTES = 2**19  # of rows in one request, which may have 2**20 by default
MOST_TOKENS = 256
WRONG_ENDPOINT = "wrong_endpoint"
FIELDS = {"classification": "text", "chat": "messages", "completion": "prompt"}
NOTHING_FITS = "Give rows with the fields that the model was trained on."


class RemotePredictor:
    """Asks one model of a server. What kind of questions it answers is known after the first answer."""

    def __init__(self, client: Client, model: str) -> None:
        self._client = client
        self._model = model
        # A base model has no labels of its own.
        self._kinds: Sequence[str] = tuple(FIELDS) if model.startswith("ft:") else ("chat",)

    def predict_texts(self, texts: Sequence[str]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Give each text as a row of the model's kind, and the answer to it. Raises CliError."""
        for start in range(0, len(texts), BATCH):
            yield from self._first_that_fits(
                {kind: [row_of(text, kind) for text in texts[start : start + BATCH]] for kind in FIELDS}
            )

    def predict_rows(
        self, rows: Sequence[Mapping[str, Any]], filename: str, lines: Sequence[int]
    ) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Give each row, and the answer to it. Raises CliError.

        Raises DataError, before anything is asked, naming each of these `lines` of the file whose row cannot be used.
        """
        self._check(rows, filename, lines)
        for some in _batches(rows):
            yield from self._first_that_fits(
                {kind: some for kind, field in FIELDS.items() if all(row.get(field) for row in some)}
            )

    def _check(self, rows: Sequence[Mapping[str, Any]], filename: str, lines: Sequence[int]) -> None:
        """Raise DataError unless all rows have the field of one kind; those are named that lack what most rows have."""
        from sgg_core.errors import DataError, Problem

        lacking = {
            FIELDS[kind]: [line for line, row in zip(lines, rows, strict=True) if not row.get(FIELDS[kind])]
            for kind in self._kinds
        }
        field = min(lacking, key=lambda each: len(lacking[each]))
        if not lacking[field]:
            return
        if len(lacking[field]) == len(rows):
            fields = ", ".join(lacking)
            reason = f"No row has a field that a model can be asked about ({fields})."
            raise DataError(filename, (Problem(None, None, reason, NOTHING_FITS),))
        reason, remedy = "The field is missing or empty.", f"Fill in {field!r} in every row."
        raise DataError(filename, tuple(Problem(line, field, reason, remedy) for line in lacking[field]))

    def _first_that_fits(
        self, rows_of: Mapping[str, list[dict[str, Any]]]
    ) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        refusal: CliError = CliError("The rows have no field that a model can be asked about.", NOTHING_FITS)
        for kind in self._kinds:
            if kind not in rows_of:
                continue
            try:
                answers = self._labels(rows_of[kind]) if kind == "classification" else self._texts(rows_of[kind], kind)
            except ApiError as error:
                if error.code != WRONG_ENDPOINT:
                    raise
                refusal = error
                continue
            self._kinds = (kind,)
            yield from zip(rows_of[kind], answers, strict=True)
            return
        raise refusal

    def _labels(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        asked = [{name: row[name] for name in ("text", "text_pair") if row.get(name)} for row in rows]
        answer = self._client.post("/classifications", {"model": self._model, "input": asked})
        return [{"label": each["label"], "probabilities": each["probabilities"]} for each in answer["results"]]

    def _texts(self, rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
        common = {"model": self._model, "temperature": 0, "max_tokens": MOST_TOKENS}
        if kind == "completion":
            answers = [self._client.post("/completions", common | {"prompt": row["prompt"]}) for row in rows]
            return [{"completion": _finished(answer)["text"]} for answer in answers]
        chats = [common | {"messages": _question(row["messages"])} for row in rows]
        answers = [self._client.post("/chat/completions", chat) for chat in chats]
        return [{"completion": _finished(answer)["message"]["content"]} for answer in answers]


def _batches(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in as few requests as they fit into."""
    some: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        own = len(json.dumps(row))
        if some and (len(some) == BATCH or size + own > MOST_BYTES):
            yield some
            some, size = [], 0
        some.append(dict(row))
        size += own
    if some:
        yield some


def row_of(text: str, kind: str) -> dict[str, Any]:
    """Give a text as a row of a kind of examples."""
    if kind == "chat":
        return {"messages": [{"role": "user", "content": text}]}
    return {FIELDS[kind]: text}


def _finished(answer: dict[str, Any]) -> dict[str, Any]:
    """The one choice of an answer. Raises CliError if it ended early, since half of a text is no prediction."""
    choice: dict[str, Any] = answer["choices"][0]
    written = answer["usage"]["completion_tokens"]
    if choice["finish_reason"] == "length" and written < MOST_TOKENS:
        raise CliError(
            f"An answer ended after {written} tokens, before the model was done: the server's time for it was over, or "
            "the model's context was full.",
            "Ask again when the server is less busy, have SGG_TRIAL_SECONDS raised there, or shorten the row.",
        )
    return choice


def _question(messages: Any) -> list[dict[str, Any]]:
    """Leave out what only training uses: a last answer, and the turns' weights."""
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise CliError("A row's messages are not a list of messages with role and content.", NOTHING_FITS)
    asked = messages[:-1] if messages and messages[-1].get("role") == "assistant" else messages
    return [{name: value for name, value in turn.items() if name != "weight"} for turn in asked]
