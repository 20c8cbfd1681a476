"""`apps rotate`: commands take and print the new token only."""

from pathlib import Path

from backend.bootstrap import Backend
from backend.domain.events import pack_messages
from backend.domain.model import EntryId, Parent
from backend.storage.redis.types import Creation
from tests.cli.conftest import Cli


def test_commands_know_an_application_by_its_new_token(
    cli: Cli, core: Backend, token: str, chat: int, tmp_path: Path
) -> None:
    """What was accepted before is stored, numbers go on, and dead letters and findings name the new one."""
    assert cli("messages", "create", token, chat, "before").code == 0
    before = tmp_path / "before.jsonl"
    assert cli("export", before).code == 0
    poison = Creation("messages", Parent(token, chat), pack_messages(token, chat, ["a\0b"]))
    core.log.accept(core.counters.shard(token), [poison], EntryId(0, 0))
    new = cli("apps", "rotate", token, "-q").out.strip()
    assert new != token

    old = cli.run_all(
        [
            ("apps", "show", token),
            ("apps", "rotate", token),
            ("chats", "list", token),
            ("messages", "create", token, chat, "x"),
            ("messages", "list", token, chat),
            ("messages", "trace", token, chat, 1),
            ("search", token, chat, "before"),
            ("search", token, "all", "before"),
            ("apps", "retention", token, "off"),
            ("export", "--app", token),
            ("reconcile", "--app", token),
            ("purge", "--older-than", "1d", "--app", token, "--yes"),
            ("apps", "delete", token, "--cascade", "--yes"),
        ]
    )
    assert [result.code for result in old] == [3] * len(old)
    assert cli("messages", "create", new, chat, "after", "--wait", "stored").json["number"] == 3
    assert [line["text"] for line in cli("messages", "list", new, chat).lines] == [
        "before",
        "after",
    ]
    assert [line["number"] for line in cli("search", new, chat, "before").lines] == [1]
    assert [line["token"] for line in cli("apps", "list").lines] == [new]
    assert [line["token"] for line in cli("dead", "list", "--app", new).lines] == [new]
    assert {line["token"] for line in cli("sync-counters", "--all").lines} == {new}
    with core.database.begin() as tx:
        tx.exec_driver_sql("DELETE FROM message WHERE number = 1")
    (finding,) = cli("reconcile").lines
    assert (finding["kind"], finding["token"]) == ("gap_unexplained", new)


def test_exports_of_before_and_after_are_of_the_same_application(
    cli: Cli, core: Backend, token: str, chat: int, tmp_path: Path
) -> None:
    """An export has the new token; an import takes each, and stores nothing twice."""
    cli("messages", "create", token, chat, "text", "--wait", "stored")
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    cli("export", before)
    new = core.catalog.applications.rotate(token).token
    cli("export", after)
    assert token not in after.read_text()
    assert new in after.read_text()
    assert cli("export", "--app", new).out == after.read_text()
    assert cli("import", after).json["skipped"] == 3
    older = [line for line in before.read_text().splitlines(True) if '"application"' not in line]
    assert cli("import", "-", stdin="".join(older)).json["skipped"] == 2
    assert [line["token"] for line in cli("apps", "list").lines] == [new]
