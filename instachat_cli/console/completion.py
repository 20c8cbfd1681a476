"""Completion by bash, zsh and fish: the scripts, and the answers to what these ask.

The scripts are Typer's. They run the program with a variable set, and suggest what it then prints.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from typer.exceptions import TyperException

from backend.domain.errors import Failed, InstaChatError, Invalid

PROGRAM = "instachat"
SHELLS = ("bash", "zsh", "fish")


def answer_shell(root: Any, instruction: str) -> int:
    """Print what the shell may suggest; returns the exit code, by which fish learns if there is anything.

    `instruction` is what the shell's script has set the variable to. Nothing is written to standard error,
    and no error is reported: the user is typing.
    """
    from typer._completion_classes import completion_init
    from typer.completion import shell_complete

    completion_init()
    try:
        shell_complete(root, {}, PROGRAM, "", instruction)
    except SystemExit as ended:
        return int(ended.code or 0)
    except (InstaChatError, TyperException, OSError):
        pass
    return 0


def script(variable: str, shell: str | None = None) -> str:
    """The completion script of a shell; by default of the one that has started the program."""
    from typer._completion_shared import get_completion_script

    return get_completion_script(
        prog_name=PROGRAM, complete_var=variable, shell=shell or _current_shell()
    )


def install_script(variable: str) -> Path:
    """Install the completion of the shell that has started the program; returns the file.

    bash and zsh also get a line in `~/.bashrc` or `~/.zshrc`.
    """
    from typer._completion_shared import install

    try:
        _, path = install(_current_shell(), PROGRAM, variable)
    except OSError as error:
        raise Failed(f"can't install the completion: {error.strerror}: {error.filename}") from None
    return path


def _current_shell() -> str:
    import shellingham

    names = [Path(os.environ.get("SHELL", "")).name]
    with suppress(shellingham.ShellDetectionFailure):
        names.insert(0, shellingham.detect_shell()[0])
    for name in names:
        if name in SHELLS:
            return name
    raise Invalid(
        "the shell that has started this is none of bash, zsh and fish",
        "start the command in one of them, or name it by SHELL=/bin/bash",
    )
