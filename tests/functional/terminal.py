# SPDX-License-Identifier: Apache-2.0
"""A program on a terminal of a given size, and what its screen shows.

The screen knows what Silo may send: text, CR, LF, cursor up, erasing to the end of the line
or the screen.  Anything else is a failure.
"""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import threading
import time

ESCAPE = re.compile(rb"\x1b\[(\d*)([AJK])")


class Screen:
    def __init__(self, columns, rows):
        self.columns, self.rows = columns, rows
        self.lines = [""]  # all that were ever there, also those scrolled away
        self.row = self.column = 0
        self.wrapped = 0  # lines that were too long
        self.rest = b""

    def feed(self, data):
        data = self.rest + data
        self.rest = b""
        while data:
            if data[0] == 0x1B:
                match = ESCAPE.match(data)
                if not match:
                    assert len(data) < 8, f"not for this terminal: {data[:20]}"
                    self.rest = data
                    return
                self.escape(int(match[1] or 1), match[2])
                data = data[match.end() :]
                continue
            self.put(chr(data[0]))
            data = data[1:]

    def escape(self, n, what):
        if what == b"A":
            self.row -= n
            top = max(0, len(self.lines) - self.rows)
            assert self.row >= top, "the cursor leaves the screen"
        else:
            self.lines[self.row] = self.lines[self.row][: self.column]
        if what == b"J":
            del self.lines[self.row + 1 :]

    def put(self, c):
        if c == "\r":
            self.column = 0
        elif c == "\n":
            self.row += 1
            if self.row == len(self.lines):
                self.lines.append("")
        else:
            assert " " <= c <= "~", f"control character {c!r}"
            if self.column == self.columns:
                self.wrapped += 1
                self.put("\n")
                self.put("\r")
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + c + line[self.column + 1 :]
            self.column += 1

    def text(self):
        return "\n".join(line.rstrip() for line in self.lines).rstrip("\n")


class Terminal:
    """with Terminal ([program, ...], 80, 24) as t: t.wait_for ("text")"""

    def __init__(self, argv, columns=80, rows=24, **environment):
        self.screen = Screen(columns, rows)
        self.pictures = []  # when each one began, by time.monotonic ()
        self.master, slave = pty.openpty()
        self.resize(columns, rows)
        # Where the session of a process begins, its terminal becomes the controlling one.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *argv],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm", **environment},
        )
        os.close(slave)
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def resize(self, columns, rows):
        self.screen.columns, self.screen.rows = columns, rows
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def read(self):
        while True:
            select.select([self.master], [], [])
            try:
                data = os.read(self.master, 1 << 16)
            except OSError:  # the last one has closed it
                data = b""
            with self.changed:
                if b"\x1b[J\r" in data:
                    self.pictures.append(time.monotonic())
                try:
                    self.screen.feed(data)
                except AssertionError as why:
                    self.failure = str(why)
                    data = b""
                self.ended = not data
                self.changed.notify_all()
            if not data:
                return

    ended = False
    failure = None

    def wait_for(self, pattern, seconds=60):
        """Until the screen shows it; the match."""
        end = time.monotonic() + seconds
        with self.changed:
            while not (found := re.search(pattern, self.screen.text())):
                left = end - time.monotonic()
                shows = self.screen.text() + (self.failure or "")
                assert not self.ended and left > 0, f"no {pattern!r} on the screen:\n{shows}"
                self.changed.wait(left)
        return found

    def type(self, keys):
        os.write(self.master, keys)

    def end(self, seconds=60):
        """The status with which it ends by itself."""
        status = self.process.wait(seconds)
        self.reader.join(seconds)
        assert self.failure is None, self.failure
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        self.reader.join(60)
        os.close(self.master)
