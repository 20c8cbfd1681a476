"""`instachat reshard`: another number of shards, and a shard of its own."""

from backend.bootstrap import Backend
from backend.storage.postgres import leases, placements
from tests.cli.conftest import Cli


def test_reshard_says_what_it_does_and_numbers_go_on(cli: Cli, core: Backend, token: str) -> None:
    """A dry run moves nothing. What is done already is done at once."""
    cli("chats", "create", token)
    cli("messages", "create", token, 1, "one")
    before = core.routing.learn(token).shard
    planned = cli("reshard", 1, "--dry-run", "-o", "json")
    assert planned.json == {"shards": 64, "applications": 1, "to_move": int(before != 16)}
    assert core.routing.learn(token).shard == before
    moved = cli("reshard", 1, "-o", "json")
    assert moved.json == {"shards": 1, "moved": int(before != 16), "forgotten": 0}
    assert cli("reshard", 1, "-o", "json").json == {"shards": 1, "moved": 0, "forgotten": 0}
    assert cli("messages", "create", token, 1, "two", "-o", "json").json["number"] == 2
    assert cli("reshard", "--app", token, "-o", "json").json == {"moved": True}
    assert cli("reshard", "--app", token, "-o", "json").json == {"moved": False}
    assert cli("messages", "create", token, 1, "three", "-o", "json").json["number"] == 3
    assert cli("reshard", "--app", token, "--back", "--dry-run").code == 0
    assert cli("reshard", "--app", token, "--back", "-o", "json").json == {"moved": True}
    assert cli("reshard", "--app", token, "--back", "-o", "json").json == {"moved": False}
    assert core.routing.learn(token).shard == 16
    core.drainer.drain_all()
    assert [line["text"] for line in cli("messages", "list", token, 1, "-o", "jsonl").lines] == [
        *("one", "two", "three")
    ]


def test_reshard_refuses_what_is_impossible(cli: Cli) -> None:
    """Neither, both, back from nowhere, or no number of shards."""
    for words in ((), (2, "--app", "t" * 22), (2, "--back"), (0,), (1025,)):
        assert cli("reshard", *words).code == 2
    assert cli("reshard", "--app", "t" * 22).code == 3


def test_status_shows_an_interrupted_reshard(cli: Cli, core: Backend) -> None:
    """From how many shards to how many, what is left, and how to continue; until it has ended."""
    assert cli("status", "-o", "json").json["reshard"] is None
    with core.database.begin() as tx:
        placements.set_target(tx, placements.ShardRange(16, 128))
        placements.record_to_move(tx, 7)
    body = cli("status", "-o", "json").json
    assert body["reshard"] == {"shards": 64, "target": 128, "to_move": 7, "running": False}
    assert (
        "a reshard was interrupted: run `instachat reshard 128`, which continues" in body["advice"]
    )
    shown = " ".join(cli("status", "-o", "table").out.split())
    assert "interrupted, from 64 to 128 shards; 7 applications are left to move" in shown
    with leases.hold(core.database, placements.RESHARD_LEASE):
        assert cli("status", "-o", "json").json["reshard"]["running"]
    assert cli("reshard", 128).code == 0
    assert cli("status", "-o", "json").json["reshard"] is None
