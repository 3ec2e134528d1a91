"""A helper's process, `python -m sgg_core.team.helper_process`, started by a leader.

Orders come on stdin and messages leave on the original stdout, one JSON object a line. Ends at once when its leader
does: stdin closes, and Linux sends it a SIGKILL.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
import warnings

from sgg_core.errors import HelperLostError, SggError
from sgg_core.pipe import MessagePipe, die_with_parent, name_process


def main() -> None:
    """Help the parent, whose process id is the argument."""
    die_with_parent(int(sys.argv[1]))
    name_process("sgg-helper")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = MessagePipe()
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)  # libraries say it to programmers; the leader has heard it
    try:
        from sgg_core.team.helper import help_out

        help_out(pipe, lines)
    except HelperLostError:  # of another helper: it knows why
        pass
    except BaseException as error:
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
        _tell(pipe, error)
    os._exit(1)


def _read(lines: queue.SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)


def _tell(pipe: MessagePipe, error: BaseException) -> None:
    from sgg_core.memory import lacks_memory
    from sgg_core.team.messages import Failed

    message = str(error) if isinstance(error, SggError) else f"{type(error).__name__}: {error}"
    pipe.send(Failed(message=message, out_of_memory=isinstance(error, Exception) and lacks_memory(error)))


if __name__ == "__main__":
    main()
