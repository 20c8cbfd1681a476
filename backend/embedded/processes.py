"""Starts an engine's processes so that they end with the supervisor, and ends orphans of an earlier one."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from backend.embedded.account import Account

# Not the user's environment: it may contain secrets, and PG… variables that would configure the engine.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Launcher:
    """Starts processes of one engine, as its user and with its log (a descriptor) as output.

    They and their children inherit the descriptor `alive`, and with it the engine's lock.
    """

    account: Account
    log: int
    alive: int

    def start(
        self,
        command: list[str],
        stop_signal: signal.Signals,
        stdin: int = subprocess.DEVNULL,
    ) -> "subprocess.Popen[str]":
        """Start a program; on Linux it gets the signal `stop_signal` if the supervisor dies.

        It gets none of the variables of this process.

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
            preexec_fn=_signal_on_parent_death(os.getpid(), stop_signal),  # noqa: PLW1509 - safe, as explained there
            text=True,
        )

    def run(self, command: list[str], stdin: str = "") -> None:
        """Run a program to its end. Raises like `start`, and CalledProcessError if it fails."""
        program = self.start(command, signal.SIGKILL, stdin=subprocess.PIPE)
        program.communicate(stdin)
        if program.returncode:
            raise subprocess.CalledProcessError(program.returncode, command[0])


def _signal_on_parent_death(parent: int, stop_signal: signal.Signals) -> Callable[[], None] | None:
    """A function for the child to call between fork and exec; it requests the signal for the parent's death.

    The kernel sends it when the parent *thread* ends, so the supervisor has a single thread. That also
    makes it safe to run Python between fork and exec.
    """
    libc = _LIBC
    if libc is None:
        return None

    def bind() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(stop_signal))
        if os.getppid() != parent:  # it died before the request
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
    """Signal the processes of an engine's earlier run to end.

    They are found by their user and by `process_tag` in their command lines, so a process that reuses an
    old process number is never signalled. The main process, which has `main_option`, gets `stop_signal`. If
    the main process is gone, the others can't do anything useful and are killed; `by_force` kills all of
    them.
    """
    import psutil  # slow to import, and rarely needed

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
