"""The entry point: run one command and exit with its exit code.

Every error ends up here; `console.exit_codes` turns it into a message and an exit code. This module imports
nothing heavy, so that Ctrl-C during the start is handled as well.
"""

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command of `sys.argv`, and exit."""
    # Arguments are UTF-8, like all data, although Python has decoded them by the locale.
    sys.exit(run([os.fsencode(word).decode(errors="surrogateescape") for word in sys.argv[1:]]))


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit code."""
    try:
        _open_streams()
        from instachat_cli.runtime import signals

        signals.note_interrupts()
        from instachat_cli.console import exit_codes
        from instachat_cli.console.stderr import stderr

        try:
            stderr.as_json = _wants_json(arguments)
            from instachat_cli.program import invoke

            code = invoke(arguments)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader of standard output, such as `head`, has what it wanted and has closed the pipe.
            _flush_or_discard_stdout()
            return 0
        except BaseException as error:  # noqa: BLE001  # users never see a traceback
            _flush_or_discard_stdout()
            if signals.was_interrupted() and not isinstance(error, KeyboardInterrupt):
                error = KeyboardInterrupt()  # which became another error on its way
            return exit_codes.report_error(error)
        stderr.write_held()
        return code
    except KeyboardInterrupt:
        return 130


def _wants_json(arguments: list[str]) -> bool:
    """Whether the arguments contain `-o json`. Checked before parsing, since parsing may fail."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return any(
        word in ("-ojson", "--output=json") or (word == "json" and before in ("-o", "--output"))
        for before, word in zip(["", *options], options, strict=False)
    )


def _open_streams() -> None:
    """Open the standard streams that the caller closed, and make them UTF-8, whatever the locale."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115  # never closed
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]


def _flush_or_discard_stdout() -> None:
    """Flush standard output; if that fails, discard it, since the interpreter would fail on it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
