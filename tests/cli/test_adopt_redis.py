"""`adopt-redis`, and what the other commands say of a Redis that does not know the installation."""

import redis

from backend.settings import Settings
from tests.cli.conftest import Cli, Terminal
from tests.conftest import Engines
from tests.support.fork_server import ForkServer


def test_a_wrong_redis_is_refused_until_it_is_adopted(
    cli: Cli, installation: Settings, engines: Engines, fork_server: ForkServer
) -> None:
    """Commands and services exit with 5 and say what to do; `doctor` says the same; nothing is written."""
    token = cli("apps", "create", "Desk").json["token"]
    cli("chats", "create", token, "--wait", "stored")
    wrong_url = engines.redis_database()
    wrong = Cli(fork_server, database_url=installation.database_url, redis_url=wrong_url)
    for words in (
        ("messages", "create", token, 1, "x"),
        ("sync-counters",),
        ("worker",),
        ("serve",),
        ("up",),
    ):
        refused = wrong(*words)
        assert (refused.code, refused.out) == (5, ""), words
        assert "does not know this installation" in refused.err
        assert "instachat adopt-redis" in refused.err
    checked = wrong("doctor")
    assert checked.code == 4
    (found,) = [line for line in checked.lines if line["check"] == "installation"]
    assert found["severity"] == "error"
    assert "adopt-redis" in found["remedy"]
    shown = wrong("status")
    assert shown.code == 5
    assert "does not know this installation" in shown.err
    assert (shown.json["verdict"], shown.json["not_stored"]) == ("not well", None)
    assert shown.json["sentence"] == "This Redis does not know this installation"
    assert "instachat adopt-redis" in shown.json["advice"][0]
    assert redis.Redis.from_url(wrong_url).keys("*:epoch") == []

    assert wrong("adopt-redis").code == 2, "there is no terminal to ask on"
    assert wrong("adopt-redis", "--dry-run").json == {"adopted": False}
    declined = Terminal(wrong, "adopt-redis")
    declined.wait_for_text("[y/N] ")
    declined.type("n\n")
    assert declined.end() == 1
    assert redis.Redis.from_url(wrong_url).keys("*:epoch") == []
    assert wrong("adopt-redis", "--yes").json == {"adopted": True}
    assert wrong("adopt-redis", "--yes").json == {"adopted": False}
    assert wrong("messages", "create", token, 1, "x").code == 0


def test_doctor_tells_a_redis_that_lost_its_data(cli: Cli, installation: Settings) -> None:
    """It is the right one, so the next command continues."""
    token = cli("apps", "create", "Desk").json["token"]
    cli("chats", "create", token, "--wait", "stored")
    redis.Redis.from_url(str(installation.redis_url)).flushdb()
    (found,) = [line for line in cli("doctor").lines if line["check"] == "installation"]
    assert (found["severity"], "has lost" in found["message"]) == ("warning", True)
    assert cli("messages", "create", token, 1, "x").code == 0
    (found,) = [line for line in cli("doctor").lines if line["check"] == "installation"]
    assert found["severity"] == "ok"
