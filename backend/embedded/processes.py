"""Starting an engine's processes so that none of them is ever lost, and ending those that are."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from backend.embedded.account import Account

# Nothing of the user's environment: it may hold secrets, and PG… variables that the engine would obey.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Launcher:
    """Starts processes of one engine: as its user, with its log (a descriptor) as output.

    All of them, and theirs, inherit the descriptor `alive`, and with it the engine's lock.
    """

    account: Account
    log: int
    alive: int

    def start(
        self, command: list[str], stop_signal: signal.Signals, stdin: int = subprocess.DEVNULL
    ) -> "subprocess.Popen[str]":
        """Starts a program that gets the signal `stop_signal` if the supervisor dies (on Linux).

        Raises OSError or subprocess.SubprocessError if it can't.
        """
        user = self.account.uid if self.account.needs_switch else None
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=self.log,
            stderr=self.log,
            cwd="/",
            env=_ENVIRONMENT,
            umask=0o077,
            user=user,
            group=None if user is None else self.account.gid,
            extra_groups=None if user is None else [],
            pass_fds=(self.alive,),
            preexec_fn=_signal_on_parent_death(os.getpid(), stop_signal),  # noqa: PLW1509 - there, why it is safe
            text=True,
        )

    def run(self, command: list[str], stdin: str = "") -> None:
        """Runs a program to its end. Raises as `start`, and CalledProcessError if it fails."""
        program = self.start(command, signal.SIGKILL, subprocess.PIPE)
        program.communicate(stdin)
        if program.returncode:
            raise subprocess.CalledProcessError(program.returncode, command[0])


def _signal_on_parent_death(parent: int, stop_signal: signal.Signals) -> Callable[[], None] | None:
    """What a child does to get that signal when its parent dies, before it becomes the program.

    To the kernel the parent is a thread, so the supervisor has one only; that also makes it safe to run
    Python between fork and exec.
    """
    libc = _LIBC
    if libc is None:
        return None

    def bind() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(stop_signal))
        if os.getppid() != parent:  # it died just before
            os._exit(1)

    return bind


def end_orphans(
    account: Account,
    process_tag: str,
    main_option: str,
    stop_signal: signal.Signals,
    *,
    by_force: bool,
) -> None:
    """Tells what is left of an engine's earlier life to end.

    Its processes are known by their user and by `process_tag`, the engine's own name, in their command lines;
    one that merely got an old one's number is never hit. The main process, which has `main_option`,
    gets `stop_signal`. Without it the others can do nothing useful any more: they are killed, as all are
    with `by_force`.
    """
    import psutil  # hardly ever needed, and slow to import

    found = []
    for process in psutil.process_iter(["uids", "cmdline"]):
        uids, words = process.info["uids"], process.info["cmdline"] or []
        if uids and uids.real == account.uid and process_tag in " ".join(words):
            found.append((process, main_option in words))
    kill = by_force or not any(is_main for _, is_main in found)
    for process, is_main in found:
        try:
            if kill:
                process.kill()
            elif is_main:
                process.send_signal(stop_signal)
        except psutil.NoSuchProcess:
            pass
