"""A real pseudo-terminal: what a command writes to one, and what is then to be seen."""

import fcntl
import os
import pty
import struct
import termios
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout

_ROWS, _COLUMNS = 40, 120


def written(command: Callable[[], object]) -> str:
    """All characters that `command` writes while stdout and stderr are a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    found = bytearray()

    def read() -> None:
        try:
            while data := os.read(ours, 65536):
                found.extend(data)
        except OSError:  # the other side is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    with (
        os.fdopen(theirs, "w", encoding="utf-8", buffering=1) as terminal,
        redirect_stdout(terminal),
        redirect_stderr(terminal),
    ):
        command()
    reader.join()
    os.close(ours)
    return found.decode()


def screen(text: str) -> list[str]:
    """The lines that can be read in the end, after every carriage return has done its work."""
    lines, column = [""], 0
    for character in text:
        if character == "\n":
            lines.append("")
        elif character == "\r":
            column = 0
        else:
            line = lines[-1].ljust(column)
            lines[-1] = line[:column] + character + line[column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]
