"""The proof that an adapter's files are enough: a fresh process loads them through peft alone and answers the same.

The process is forked from a server that has imported the libraries and done nothing else. So a proof costs no imports,
and nothing that the training left in memory can help it. The server is `python -m sgg_core.proof`, or, where a process
says so before it does anything (`branch_off`), a fork of it, which costs neither imports nor memory of its own.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NoReturn

import torch
from pydantic import BaseModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from sgg_core.backbone import LoadedBase
from sgg_core.base_files import quiet_transformers
from sgg_core.dropout import without_dropout
from sgg_core.encoding import Encoded
from sgg_core.errors import VerificationError
from sgg_core.imports import without_collector

LIBRARIES = ("torch", "transformers", "peft", "safetensors")
TOLERANCE = 1e-3  # of logits of one prompt, computed twice in float32 on the same device
ELSEWHERE = 0.05  # the same on a GPU and, where its memory has no room for a second base model, on the CPU
SECONDS = 600.0
LONGEST_PROMPT = 32  # tokens: those of a prompt that follow would only cost time
REMEDY = "No adapter is delivered. Send the administrator this message and the worker's `pip list`."


class Proof(BaseModel):
    """Content of verification.json. `max_abs_difference` is over what the model says after each of `probes` prompts:
    logits of a causal language model, the last hidden state of an encoder."""

    passed: bool
    probes: int
    max_abs_difference: float
    tolerance: float
    loaded_with: str
    versions: dict[str, str]


class Question(BaseModel):
    """What a fresh process is asked: how far its states are from those in the file `expected`."""

    kind: str
    base: Path
    adapter: Path
    prompts: list[tuple[int, ...]]
    expected: Path
    device: str


class Answer(BaseModel):
    """The largest difference, or in words why there is none."""

    difference: float | None = None
    problem: str = ""


class Fork:
    """A forked process, with what a server needs of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        """Its status, if it has ended."""
        if self._status is None:
            ended, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = status if ended else None
        return self._status

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end."""
        if self._status is None:
            self._status = os.waitpid(self._pid, 0)[1]
        return self._status


class Server:
    """The process that fresh ones are forked from. Ends with this process, at whose other end its streams are."""

    def __init__(self, process: subprocess.Popen[bytes] | Fork, questions: IO[bytes], answers: IO[bytes]) -> None:
        self._process = process
        self._questions = questions
        self._answers = answers
        atexit.register(self.close)

    @classmethod
    def start(cls) -> Server:
        """Let a new process import the libraries, while this one goes on."""
        command = [sys.executable, "-P", "-m", "sgg_core.proof"]
        # Ctrl-C is for whoever handles it: a group of its own is not reached, and an ignored signal stays ignored
        group = None if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else 0
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=group)
        assert process.stdin is not None and process.stdout is not None
        return cls(process, process.stdin, process.stdout)

    @classmethod
    def fork(cls) -> Server:
        """Fork this process, which has imported the libraries."""
        read_questions, ask = os.pipe()
        read_answers, answer = os.pipe()
        pid = os.fork()
        if pid == 0:
            _become_server(read_questions, answer)
        os.close(read_questions)
        os.close(answer)
        return cls(Fork(pid), os.fdopen(ask, "wb"), os.fdopen(read_answers, "rb"))

    @property
    def alive(self) -> bool:
        """Whether it takes questions."""
        return self._process.poll() is None

    def ask(self, question: Question) -> Answer:
        """Let a fresh process answer."""
        try:
            self._questions.write(question.model_dump_json().encode() + b"\n")
            self._questions.flush()
            if not select.select([self._answers], [], [], SECONDS)[0]:
                self.close()
                return Answer(problem=f"it did not answer within {SECONDS:g} s")
            line = self._answers.readline()
        except BrokenPipeError:
            line = b""
        return Answer.model_validate_json(line) if line else Answer(problem="it ended without an answer")

    def close(self) -> None:
        """End it."""
        atexit.unregister(self.close)
        self._process.kill()
        self._process.wait()
        for stream in (self._questions, self._answers):
            stream.close()


_lock = threading.Lock()
_server: Server | None = None


def prepare() -> None:
    """Let the server of fresh processes start importing, so that nobody waits for it later."""
    with _lock:
        _running()


def branch_off() -> None:
    """Make a fork of this process the server of fresh processes, which shares its imports and their memory.

    To be called before this process starts threads or computes anything.
    """
    global _server
    import_libraries()
    with _lock:
        _server = Server.fork()


def import_libraries() -> None:
    """Import what a proof needs, which takes seconds."""
    with without_collector():
        import peft  # noqa: F401  # imported for the loading alone
        from transformers import AutoModel, AutoModelForCausalLM  # noqa: F401  # the same


def prove(base: LoadedBase, directory: Path, probes: Sequence[Encoded]) -> Proof | None:
    """Compare what the adapted model in memory says with what a fresh process gets out of `directory`.

    None where the base model is not on disk. Raises VerificationError unless they are the same.
    """
    if base.directory is None:
        return None
    device, tolerance = _place(base)
    prompts = [probe.ids[:LONGEST_PROMPT] for probe in probes]
    with tempfile.TemporaryDirectory() as scratch, _lock:
        expected = Path(scratch) / "expected.safetensors"
        save_file({str(n): last_states(base.model, ids, base.device) for n, ids in enumerate(prompts)}, expected)
        question = Question(
            kind=base.entry.kind,
            base=base.directory.resolve(),
            adapter=directory.resolve(),
            prompts=prompts,
            expected=expected,
            device=device,
        )
        answer = _running().ask(question)
    if answer.difference is None:
        raise VerificationError(f"peft could not load the saved adapter in a fresh process: {answer.problem}.", REMEDY)
    if not answer.difference <= tolerance:
        raise VerificationError(
            f"The saved adapter gives different answers in a fresh process (by up to {answer.difference:.2g}; "
            f"{tolerance:g} is allowed).",
            REMEDY,
        )
    return Proof(
        passed=True,
        probes=len(probes),
        max_abs_difference=answer.difference,
        tolerance=tolerance,
        loaded_with="peft.PeftModel.from_pretrained",
        versions={"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    )


def last_states(model: Any, ids: Sequence[int], device: torch.device) -> Tensor:
    """What a model says after a prompt: logits, or the last hidden state, as float32 on the CPU. Without dropout."""
    with without_dropout(model), torch.inference_mode():
        found = model(input_ids=torch.tensor([list(ids)], device=device))
    states: Tensor = found.logits if hasattr(found, "logits") else found.last_hidden_state
    return states[0, -1].float().cpu().clone()


def _running() -> Server:
    global _server
    if _server is None or not _server.alive:
        _server = Server.start()
    return _server


def _place(base: LoadedBase) -> tuple[str, float]:
    """Where the fresh process computes, and how far its numbers may be off."""
    if base.device.type == "cuda":
        size = sum(weights.numel() * weights.element_size() for weights in base.model.parameters())
        if torch.cuda.mem_get_info(base.device)[0] < 2 * size:
            return "cpu", ELSEWHERE
    return str(base.device), TOLERANCE


def _measured(question: Question) -> Answer:
    """Load the adapter as anyone would who has the base model, and ask it."""
    from peft import PeftModel
    from transformers import AutoModel, AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM if question.kind == "causal" else AutoModel
    try:
        with quiet_transformers():
            loaded = loader.from_pretrained(question.base, dtype=torch.float32)
        model = PeftModel.from_pretrained(loaded.to(question.device), question.adapter)
        expected = load_file(question.expected)
        device = torch.device(question.device)
        found = [last_states(model, ids, device) for ids in question.prompts]
        return Answer(difference=max(float((one - expected[str(n)]).abs().max()) for n, one in enumerate(found)))
    except Exception as error:  # whatever it is, these files are not an adapter that others can use
        return Answer(problem=f"{type(error).__name__}: {error}")


def serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Answer each line with one, by a process of its own; ends with its input."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)  # libraries say it to programmers; users can do nothing about it
    import_libraries()
    for line in iter(questions.readline, b""):
        child = os.fork()
        if child == 0:
            answer = _measured(Question.model_validate_json(line))
            answers.write(answer.model_dump_json().encode() + b"\n")
            answers.flush()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != 0:
            answers.write(json.dumps({"problem": f"it ended with exit code {status}"}).encode() + b"\n")
            answers.flush()


def _become_server(questions: int, answers: int) -> NoReturn:
    """Serve from now on, in a process that was forked for it, and end."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever handles it
        os.dup2(questions, 0)
        os.dup2(2, 1)  # libraries print: what they say goes to stderr instead
        os.dup2(answers, 3)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))  # the pipes of the process that it was are none of its business
        with os.fdopen(0, "rb") as asked, os.fdopen(3, "wb") as told:
            serve(asked, told)
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    pipe = os.fdopen(os.dup(1), "wb")  # libraries print: what they say goes to stderr instead
    os.dup2(2, 1)
    serve(sys.stdin.buffer, pipe)
