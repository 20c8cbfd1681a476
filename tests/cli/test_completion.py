"""Completion: what bash, zsh and fish are told, and what they are not told."""

import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backend.bootstrap import Backend
from backend.ingest.requests import AcceptRequest
from instachat_cli.console import suggestions
from instachat_cli.console.completion import script
from instachat_cli.program import COMPLETE_VARIABLE, command_modules, invoke
from tests.cli.conftest import ROOT, Cli
from tests.support.waiting import PATIENCE_SECONDS


class Shell:
    """Asks the program, in this process, as a shell does; the store gets all the time that it needs."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        **settings: object,
    ) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.setattr(suggestions, "DEADLINE_SECONDS", PATIENCE_SECONDS)
        for name in ("database_url", "redis_url", "home", "token"):
            self.set(f"INSTACHAT_{name.upper()}", settings.get(name))

    def set(self, name: str, value: object) -> None:
        if value is None:
            self._monkeypatch.delenv(name, raising=False)
        else:
            self._monkeypatch.setenv(name, str(value))

    def bash(self, *words: object) -> list[str]:
        """What bash may suggest for the last of the words."""
        self.set("COMP_WORDS", "\n".join(["instachat", *map(str, words)]))
        self.set("COMP_CWORD", len(words))
        return self._ask("complete_bash").split()

    def zsh(self, line: str) -> str:
        """What zsh evaluates."""
        self.set("_TYPER_COMPLETE_ARGS", line)
        return self._ask("complete_zsh")

    def fish(self, line: str) -> bool:
        """Whether fish is told that there is anything to suggest."""
        self.set("_TYPER_COMPLETE_ARGS", line)
        self.set("_TYPER_COMPLETE_FISH_ACTION", "is-args")
        self.set(COMPLETE_VARIABLE, "complete_fish")
        code = invoke([])
        assert self._capsys.readouterr() == ("", "")
        return code == 0

    def _ask(self, instruction: str) -> str:
        self.set(COMPLETE_VARIABLE, instruction)
        assert invoke([]) == 0
        shown = self._capsys.readouterr()
        assert shown.err == ""
        return shown.out


@pytest.fixture
def shell(
    core: Backend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """A shell with the settings of the installation."""
    return Shell(monkeypatch, capsys, database_url=core.settings.database_url)


def test_commands_and_options_are_suggested(shell: Shell) -> None:
    """A group's commands, a command's options, and the values of an option."""
    assert shell.bash("") == list(command_modules())
    assert shell.bash("re") == ["reindex", "reconcile", "reshard"]
    assert shell.bash("queue", "p") == ["pause"]
    assert shell.bash("--ver") == ["--version"]
    assert shell.bash("apps", "list", "--n") == ["--name"]
    assert shell.bash("apps", "list", "-o", "js") == ["json", "jsonl"]


def test_tokens_and_chats_are_suggested(shell: Shell, core: Backend) -> None:
    """Tokens with the newest first, then by what is typed; the newest chats, also of INSTACHAT_TOKEN's."""
    first, second = (core.catalog.applications.create(name).token for name in ("One", "Two"))
    core.acceptor.accept(AcceptRequest.chats(second, 12))
    core.drainer.drain_all()
    assert shell.bash("apps", "show", "") == [second, first]
    assert shell.bash("chats", "list", first[:6]) == [first]
    assert shell.bash("reconcile", "--app", second[:6]) == [second]
    assert shell.bash("messages", "list", second, "") == [str(n) for n in range(12, 0, -1)]
    assert shell.bash("messages", "list", second, "1") == ["12", "11", "10", "1"]
    assert shell.bash("search", second, "a") == ["all"]
    shell.set("INSTACHAT_TOKEN", second)
    assert shell.bash("messages", "list", "")[:1] == ["12"]


def test_fish_learns_by_the_exit_code_whether_there_is_anything(shell: Shell) -> None:
    """It completes names of files otherwise."""
    assert shell.fish("instachat apps re")
    assert not shell.fish("instachat apps nothing")


def test_zsh_keeps_the_apostrophe_of_a_help(shell: Shell) -> None:
    """Its own quoting would drop the ordinary one."""
    assert "an application’s messages" in shell.zsh("instachat apps ret")


def test_zsh_evaluates_no_name(shell: Shell, core: Backend) -> None:
    """A name that users chose stands beside its token, without characters of a shell's syntax."""
    token = core.catalog.applications.create("Désk 1 $(touch x) `id` '\"\\").token
    assert f'"{token}":"Désk 1 ··touch x· ·id· ···"' in shell.zsh("instachat apps show ")


def test_a_store_that_does_not_answer_suggests_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """And says nothing; private engines that do not run are not started for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        address = f"postgresql://x@127.0.0.1:{silent.getsockname()[1]}/x"
        shell = Shell(monkeypatch, capsys, database_url=address, home=tmp_path / "home")
        monkeypatch.setattr(suggestions, "DEADLINE_SECONDS", 0.01)
        assert shell.bash("apps", "show", "") == []
        shell.set("INSTACHAT_DATABASE_URL", None)
        monkeypatch.setattr(suggestions, "DEADLINE_SECONDS", PATIENCE_SECONDS)
        assert shell.bash("messages", "list", "token", "") == []
        assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell_name: str, tmp_path: Path) -> None:
    """A shell that is installed completes with it."""
    text = script(COMPLETE_VARIABLE, shell_name)
    assert COMPLETE_VARIABLE in text
    program = shutil.which(shell_name)
    if not program:
        return
    ours = tmp_path / "instachat"
    environment, python = shlex.quote(f"PYTHONPATH={ROOT}"), shlex.quote(sys.executable)
    ours.write_text(f'#!/bin/sh\nexec env {environment} {python} -m instachat_cli "$@"\n')
    ours.chmod(0o755)
    complete = {
        "bash": "COMP_WORDS=(instachat apps re) COMP_CWORD=2; _instachat_completion instachat; "
        'echo "${COMPREPLY[@]}"',
        "fish": "complete -C 'instachat apps re'",
        "zsh": "words=(instachat apps re) CURRENT=3; _arguments() { echo $@ }; _instachat_completion",
    }[shell_name]
    before = "compdef() { : }\n" if shell_name == "zsh" else ""
    done = subprocess.run(
        [program, "-c", f"{before}{text}\n{complete}"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert "rename" in done.stdout


def test_the_script_is_printed_and_installed_for_the_shell_that_asks(
    cli: Cli, tmp_path: Path
) -> None:
    """bash also gets a line in its start-up file."""
    program = f"{shlex.quote(sys.executable)} -m instachat_cli"
    shown = subprocess.run(
        ["bash", "-c", f"{program} --show-completion; {program} --install-completion; true"],
        env=cli.env | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    file = tmp_path / ".bash_completions" / "instachat.sh"
    assert shown.stderr == ""
    text = script(COMPLETE_VARIABLE, "bash")
    assert shown.stdout == f"{text}\ninstalled in {file}; it works in new shells\n"
    assert file.read_text().strip() == text
    assert str(file) in (tmp_path / ".bashrc").read_text()
