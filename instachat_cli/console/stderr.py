"""Notes, warnings and errors on standard error. Data go to standard output only (`output`)."""

import sys
from contextlib import suppress

# Each control character becomes a visible one, so that no text can move the cursor, change colours or forge a
# line. One for one, so that the positions of a highlight stay valid.
_VISIBLE = {code: 0x2400 + code for code in range(0x20)} | {
    0x09: " ",
    0x0A: "↵",
    0x7F: "␡",
    **dict.fromkeys(range(0x80, 0xA0), "�"),
    0x2028: "↵",
    0x2029: "↵",
}


def visible(text: str) -> str:
    """The text with control characters made visible: one line of the same length, safe for a terminal."""
    return text.translate(_VISIBLE)


class StandardError:
    """Standard error.

    With `-o json` an error must be the only output, so notes are held until the command has succeeded.
    """

    def __init__(self) -> None:
        self.as_json = False
        self.verbose = False
        self._held: list[str] = []

    def note(self, message: str) -> None:
        """Write a note."""
        self._write_notice(f"note: {visible(message)}")

    def warning(self, message: str) -> None:
        """Write a warning, about something that may need the operator."""
        self._write_notice(f"warning: {visible(message)}")

    def error(self, message: str, hint: str | None) -> None:
        """Write why the command failed, and what to do."""
        self.write_held()
        self.write_sentence(f"error: {visible(message)}")
        if hint:
            self.write_sentence(f"hint: {visible(hint)}")

    def detail(self, message: str) -> None:
        """Write what happened inside, if `--verbose` asks for it."""
        if self.verbose:
            self._write_notice(f"detail: {visible(message)}")

    def write_sentence(self, sentence: str) -> None:
        """Write a sentence immediately; on a terminal no line breaks within a word."""
        from instachat_cli.console.wrap import wrap_for  # late: help writes no sentence

        self.write_line(wrap_for(sys.stderr, sentence))

    def write_line(self, line: str) -> None:
        """Write a line immediately; ignored if standard error is closed."""
        with suppress(OSError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def write_held(self) -> None:
        """Write the notes that were held."""
        held, self._held = self._held, []
        for line in held:
            self.write_sentence(line)

    def _write_notice(self, line: str) -> None:
        if self.as_json:
            self._held.append(line)
        else:
            self.write_sentence(line)


stderr = StandardError()
