"""What is remembered of a file of examples, so that it need not be read again before a job begins.

Run as a program, it reads a file from standard input and prints its facts or its problems as JSON. So a large file
takes memory and the interpreter's lock in a process of its own, and the server goes on answering.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter

from pydantic import BaseModel, ConfigDict

from sgg_core.errors import DataError, Problem
from sgg_core.examples import ExampleSet, parse_examples
from sgg_core.shapes import ClassificationExample, Kind, Limits, characters
from sgg_core.suspicions import probably_cut

SHOWN_WARNINGS = 20


class FileFacts(BaseModel):
    """A file's examples in short. `label_lines` maps each label to the line where it first occurs.

    `characters` are those of all texts; 0 of a file that an older version inspected, whose `label_counts` are empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    kind: Kind
    examples: int
    label_lines: dict[str, int]
    label_counts: dict[str, int] = {}
    characters: int = 0
    warning_count: int
    warnings: tuple[Problem, ...]

    @property
    def sizes(self) -> tuple[int, int]:
        """How many examples there are, and with how many labels."""
        return self.examples, len(self.label_lines)

    @classmethod
    def read(cls, content: bytes, filename: str, max_bytes: int) -> FileFacts:
        """Parse a file. Raises DataError with all its problems."""
        examples = parse_examples(content, filename, Limits(max_bytes=max_bytes))
        label_lines: dict[str, int] = {}
        warnings = (*examples.warnings, *probably_cut(examples.examples, examples.lines))
        for example, line in zip(examples.classification, examples.lines, strict=False):
            label_lines.setdefault(example.label, line)
        return cls(
            sha256=examples.sha256,
            kind=examples.kind,
            examples=len(examples),
            label_lines=label_lines,
            label_counts=dict(Counter(example.label for example in examples.classification)),
            characters=sum(map(characters, examples.examples)),
            warning_count=len(warnings),
            warnings=warnings[:SHOWN_WARNINGS],
        )

    def representatives(self, filename: str) -> ExampleSet:
        """Give one example without text for each label: enough to see whether files fit together."""
        examples = tuple(ClassificationExample("", label) for label in self.label_lines)
        return ExampleSet(filename, self.kind, examples, tuple(self.label_lines.values()), (), self.sha256)


def main() -> None:
    """Print {"facts": ...} or {"problems": [...]} of the file on standard input. Arguments: name as JSON, limit."""
    filename, max_bytes = json.loads(sys.argv[1]), int(sys.argv[2])
    try:
        facts = FileFacts.read(sys.stdin.buffer.read(), filename, max_bytes)
    except DataError as error:
        print(json.dumps({"problems": [dataclasses.asdict(problem) for problem in error.problems]}))
    else:
        print(json.dumps({"facts": facts.model_dump(mode="json")}))


if __name__ == "__main__":
    main()
