# SPDX-License-Identifier: Apache-2.0
"""What a function prints, on its way to the caller's own sys.stdout and sys.stderr."""

from __future__ import annotations

import codecs
import sys
import threading

_lock = threading.Lock()  # one chunk at a time, whichever call it belongs to


class Output:
    """The two output streams of one call.

    whole_lines: hold back the last line until it is complete, so that the lines of calls
    that run side by side do not mix.
    """

    def __init__(self, whole_lines: bool = False):
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {1: decoder("replace"), 2: decoder("replace")}
        self._held = {1: "", 2: ""}
        self._whole_lines = whole_lines

    def write(self, stream: int, data: bytes) -> None:
        """Show bytes of stream 1 (stdout) or 2 (stderr); other numbers are ignored."""
        decoder = self._decoders.get(stream)
        if decoder is None:
            return
        text = self._held[stream] + decoder.decode(data)
        self._held[stream] = ""
        if self._whole_lines:
            end = text.rfind("\n") + 1
            text, self._held[stream] = text[:end], text[end:]
        _show(stream, text)

    def finish(self) -> None:
        """Show what was held back; call it before the result is used."""
        for stream, decoder in self._decoders.items():
            _show(stream, self._held[stream] + decoder.decode(b"", final=True))
            self._held[stream] = ""


def _show(stream: int, text: str) -> None:
    target = sys.stdout if stream == 1 else sys.stderr
    if not text or target is None:
        return
    with _lock:
        try:
            target.write(text)
        except UnicodeEncodeError:
            encoding = target.encoding or "ascii"
            target.write(text.encode(encoding, "backslashreplace").decode(encoding))
        target.flush()
