"""StandardError: what is said on standard error. Data never goes here, and talk never to standard output."""

import sys
from contextlib import suppress

# Each character that a terminal would obey becomes one that can be seen, so that no text moves the
# cursor, changes a colour or forges a line. One for one: a highlight's places stay right.
_VISIBLE = {code: 0x2400 + code for code in range(0x20)} | {
    0x09: " ",
    0x0A: "↵",
    0x7F: "␡",
    **dict.fromkeys(range(0x80, 0xA0), "�"),
    0x2028: "↵",
    0x2029: "↵",
}


def visible(text: str) -> str:
    """The text, safe to be shown on a terminal, in one line and as long as it was."""
    return text.translate(_VISIBLE)


class StandardError:
    """Standard error.

    With `-o json` an error is to be the only thing there, so notes are held back until the command is
    known to have succeeded.
    """

    def __init__(self) -> None:
        self.as_json = False
        self._held: list[str] = []

    def note(self, message: str) -> None:
        """Something good to know."""
        self._write_notice(f"note: {visible(message)}")

    def warning(self, message: str) -> None:
        """Something that may need a hand."""
        self._write_notice(f"warning: {visible(message)}")

    def write_line(self, line: str) -> None:
        """A line, at once; where nobody can hear it any more, that is no failure."""
        with suppress(OSError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def write_held(self) -> None:
        """Say what was held back."""
        held, self._held = self._held, []
        for line in held:
            self.write_line(line)

    def _write_notice(self, line: str) -> None:
        if self.as_json:
            self._held.append(line)
        else:
            self.write_line(line)


stderr = StandardError()
