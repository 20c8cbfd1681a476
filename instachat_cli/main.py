"""The entry: run one command, and end with its exit code.

Whatever goes wrong arrives here and nowhere else, is put into words by `failures`, and becomes an exit
code. This module imports nothing heavy, so that a Ctrl-C during the start is caught, too.
"""

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command of `sys.argv`, and exit."""
    # Arguments are UTF-8, as all data is: the locale, by which Python has read them, has no say.
    sys.exit(run([os.fsencode(word).decode(errors="surrogateescape") for word in sys.argv[1:]]))


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit code."""
    try:
        _open_streams()
        from instachat_cli.console import exit_codes
        from instachat_cli.console.stderr import stderr

        try:
            stderr.as_json = _wants_json(arguments)
            from instachat_cli.program import invoke

            code = invoke(arguments)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read our data has what it wanted, as `head` does; nobody is there to be told.
            _flush_or_discard_stdout()
            return 0
        except BaseException as error:  # noqa: BLE001  # nobody is shown a traceback
            _flush_or_discard_stdout()
            return exit_codes.report_error(error)
        stderr.write_held()
        return code
    except KeyboardInterrupt:
        return 130


def _wants_json(arguments: list[str]) -> bool:
    """Whether `-o json` is asked for: known before parsing, since parsing may be what fails."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return any(
        word in ("-ojson", "--output=json") or (word == "json" and before in ("-o", "--output"))
        for before, word in zip(["", *options], options, strict=False)
    )


def _open_streams() -> None:
    """Have three streams, also where the caller closed some, and speak UTF-8, whatever the locale."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115  # for good
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]


def _flush_or_discard_stdout() -> None:
    """Write what is left, if that can be; else drop it, or the interpreter complains at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
