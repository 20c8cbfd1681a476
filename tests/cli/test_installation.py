"""Operating an installation: migrate, config, status, doctor."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest
import redis
from sqlalchemy import make_url

from backend.bootstrap import Backend
from backend.settings import redact
from backend.storage.postgres import partitions
from backend.storage.postgres.schema import SCHEMA
from backend.storage.redis.log import Log
from tests.cli.conftest import Cli, Terminal
from tests.conftest import Engines
from tests.support.engines import RedisServer, free_port, valkey_binary
from tests.support.fork_server import ForkServer
from tests.support.pgbouncer import need_sessions

SHARDS = range(16, 80)

# -- migrate --------------------------------------------------------------------------------------


def test_migrate_prints_the_old_and_the_new_schema(
    engines: Engines, fork_server: ForkServer
) -> None:
    """A dry run changes nothing. A second migration has nothing to do. Other commands name `migrate`."""
    cli = Cli(fork_server, database_url=engines.bare_database(), redis_url=engines.redis_database())
    early = cli("apps", "list")
    assert early.code == 5
    assert "`instachat migrate`" in early.err
    assert cli("migrate", "--dry-run").json == {"from": None, "to": SCHEMA}
    assert (
        cli("migrate", "--dry-run", "-o", "table").out
        == f"would migrate from nothing to {SCHEMA}\n"
    )
    assert cli("migrate", "-o", "table").out == f"migrated from nothing to {SCHEMA}\n"
    assert cli("migrate").json == {"from": SCHEMA, "to": SCHEMA}
    assert "nothing to migrate" in cli("migrate", "-o", "table").out
    assert cli("apps", "list").code == 0


def test_migrate_distributes_the_messages_over_partitions(
    cli: Cli, core: Backend, token: str, chat: int
) -> None:
    """And puts them back into one table; each message stays as it is. A dry run changes nothing."""
    created = cli("messages", "create", token, chat, "-", "--wait", "stored", stdin="a\nb\nc\n")
    assert created.code == 0
    page = cli("messages", "list", token, chat).out
    planned = cli("migrate", "--partitions", 4, "--dry-run").json
    assert planned == {"from": SCHEMA, "to": SCHEMA, "partitions": 4, "partitions_before": 1}
    for count, before in ((4, 1), (4, 4), (2, 4), (1, 2)):
        done = cli("migrate", "--partitions", count).json
        assert (done["partitions"], done["partitions_before"]) == (count, before)
        with core.database.connect() as connection:
            assert partitions.count_partitions(connection) == count
        assert cli("messages", "list", token, chat).out == page
        assert cli("messages", "edit", token, chat, 1, "a").code == 0
        page = cli("messages", "list", token, chat).out
    assert cli("messages", "create", token, chat, "d", "--wait", "stored").json == {"number": 4}
    assert cli("migrate", "--partitions", 257).code == 2


def test_a_schema_that_admits_newer_programs_only_is_refused(
    engines: Engines, fork_server: ForkServer
) -> None:
    """Commands, servers and workers exit with 5 and change nothing; a newer schema alone is no obstacle."""
    url = engines.fresh_database()
    name = url.rpartition("@/")[2].partition("?")[0]
    engines.postgres.execute("UPDATE alembic_version SET version_num = '9999'", name)
    cli = Cli(fork_server, database_url=url, redis_url=engines.redis_database())
    assert cli("migrate").json == {"from": "9999", "to": "9999"}
    assert cli("apps", "list").code == 0
    engines.postgres.execute("UPDATE installation SET compatible_since = '9998'", name)
    for words in (["migrate"], ["migrate", "--dry-run"], ["apps", "list"]):
        refused = cli(*words, "-o", "json")
        assert refused.code == 5
        assert refused.error["error"] == "unavailable"
        assert "since 9998" in refused.error["message"]
        assert refused.error["hint"] == "run a newer instachat"
    for refused in cli.run_all([["worker"], ["serve"]]):
        assert (refused.code, "since 9998" in refused.err) == (5, True)


# -- config ---------------------------------------------------------------------------------------


def test_config_show_prints_values_and_origins_without_secrets(fork_server: ForkServer) -> None:
    """Each setting has its origin and its meaning; an empty variable counts as unset."""
    cli = Cli(
        fork_server,
        database_url="postgresql://ic:s3cret@db/ic?sslpassword=s3cret&sslmode=require",
        redis_url="",
        durability="fast",
    )
    rows = {row["setting"]: row for row in cli("config", "show").lines}
    assert set(rows["INSTACHAT_HOME"]) == {"setting", "value", "origin", "meaning"}
    database = rows["INSTACHAT_DATABASE_URL"]
    assert database["value"] == "postgresql://ic:***@db/ic?sslpassword=***&sslmode=require"
    assert database["origin"] == rows["INSTACHAT_DURABILITY"]["origin"] == "environment"
    assert (rows["INSTACHAT_REDIS_URL"]["value"], rows["INSTACHAT_REDIS_URL"]["origin"]) == (
        None,
        "default",
    )
    assert rows["INSTACHAT_DURABLE_REPLICAS"]["value"] == 0
    assert all(row["meaning"] for row in rows.values())
    assert [row["setting"] for row in cli("config", "show", "-o", "json").json] == list(rows)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:pw@h:1/0", "redis://:***@h:1/0"),
        ("redis://user@h", "redis://user@h"),
        ("rediss+cluster://u:p%40w@h:1", "rediss+cluster://u:***@h:1"),
        ("redis+cluster://u:pw@h1:1,h2:2,[::1]:3", "redis+cluster://u:***@h1:1,h2:2,[::1]:3"),
        ("redis+cluster://:p,w@h1:1,h2:2", "redis+cluster://:***@h1:1,h2:2"),
        ("redis+cluster://u:pw@h1:1,u:pw@h2:2", "redis+cluster://u:***@h2:2"),
        ("unix:///run/x.sock?password=pw&db=3", "unix:///run/x.sock?password=***&db=3"),
        ("postgresql://u:p@h1:1,h2:2/db", "postgresql://u:***@h1:1,h2:2/db"),
        ("https://u:p@h1:1,[::1]:2/es", "https://u:***@h1:1,[::1]:2/es"),
        ("https://u:p@h1,https://v:q@h2", "https://u:***@h1,https://v:***@h2"),
        ("https://u:p@h1,v:q@h2", "https://u:***@h2"),
        ("https://u:p,https://q@h", "***"),
        ("https://u:p", "***"),
        ("postgresql:///ic?host=/run/pg", "postgresql:///ic?host=/run/pg"),
        ("host=h password=pw", "***"),
        ("redis://:p#w@h/0", "***"),
        ("redis://:p/w@h/0", "***"),
        ("redis://:p?w@h/0", "***"),
        ("redis://[", "***"),
    ],
)
def test_redact_hides_every_password(url: str, shown: str) -> None:
    """A text that cannot be parsed with certainty as a URL is hidden completely."""
    assert redact(url) == shown


# -- status ---------------------------------------------------------------------------------------


def test_status_shows_the_engines_and_what_is_not_stored_yet(
    cli: Cli, token: str, drain_application: Callable[[str], None]
) -> None:
    """It has the versions of the engines, totals, and the age of the oldest entry, but no token."""
    since = time.monotonic()
    cli("chats", "create", token)
    status = cli("status").json
    assert [engine["reachable"] for engine in status["engines"]] == [True, True]
    assert all(engine["version"] for engine in status["engines"])
    assert status["schema"] == SCHEMA
    assert status["durability"] == "strict"
    assert (status["workers"], status["not_stored"], status["dead_letters"]) == (0, 1, 0)
    assert 0 < status["oldest_seconds"] <= time.monotonic() - since
    assert status["counters_not_synced"] == 1
    assert token not in str(status)
    drain_application(token)
    assert cli("status").json["not_stored"] == 0


def test_status_says_first_what_is_not_well_and_fails_beyond_a_lag(
    cli: Cli, core: Backend, token: str, chat: int
) -> None:
    """With no worker: the verdict of the page, messages instead of entries, and 4 once they are late."""
    cli("messages", "create", token, chat, "-", stdin="\n".join("abc" * 10))
    shown = cli("status", "-o", "table").out.splitlines()
    assert shown[0] == "✗ 1 figure is not well"
    assert shown[1].startswith("→ no worker is running")
    assert any("30 messages, oldest" in line for line in shown)
    status = cli("status").json
    assert (status["verdict"], status["sentence"]) == ("not well", "1 figure is not well")
    assert (status["messages_not_stored"], status["not_stored_exact"]) == (30, True)
    assert status["at"].endswith("Z")
    core.log.redis.zincrby(core.log.key(core.counters.shard(token), "dirty"), -8e9, token)
    late = cli("status", "-o", "json")
    assert (late.code, late.error["error"]) == (4, "check_failed")
    assert "counts not written to SQL for 2 h (limit: 2 h)" in late.error["message"]


def test_status_shows_an_unreachable_engine_and_exits_with_5(cli: Cli) -> None:
    """It still shows the values of the other engine."""
    url = f"redis://127.0.0.1:{free_port()}"
    away = cli("status", "-o", "json", env={"INSTACHAT_REDIS_URL": url})
    assert away.code == 5
    assert [engine["reachable"] for engine in away.json["engines"]] == [True, False]
    assert (away.json["schema"], away.json["workers"]) == (SCHEMA, None)


@pytest.mark.parametrize("option", ["foo=1", "socket_timeout=soon"])
def test_an_invalid_option_of_a_url_is_reported(cli: Cli, option: str) -> None:
    """The error names the option, without a traceback."""
    url = f"redis://127.0.0.1:{free_port()}?{option}"
    refused = cli("status", env={"INSTACHAT_REDIS_URL": url})
    assert refused.code == 2
    assert "can't be used" in refused.err
    assert option.partition("=")[0] in refused.err


def test_status_watch_continues_until_ctrl_c(cli: Cli) -> None:
    """On a terminal it redraws the status in place. Ctrl-C ends it with 130."""
    terminal = Terminal(cli, "status", "--watch")
    terminal.wait_for_text("dead letters")
    terminal.shown = ""
    terminal.wait_for_text("dead letters")  # once more, a second later
    assert "\x1b[" in terminal.shown
    terminal.type("\x03")
    assert terminal.end() == 130
    assert "Traceback" not in terminal.shown


# -- doctor ---------------------------------------------------------------------------------------


def checks(cli: Cli, env: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """The exit code, and the result of each check."""
    result = cli("doctor", env=env)
    return result.code, {finding["check"]: finding for finding in result.lines}


def test_doctor_of_a_healthy_installation_exits_with_0(cli: Cli) -> None:
    """Its only warning is that no worker runs."""
    code, found = checks(cli)
    assert code == 0
    assert {f["severity"] for f in found.values()} == {"ok", "warning"}
    assert [f["check"] for f in found.values() if f["severity"] == "warning"] == ["worker"]
    assert "instachat worker" in found["worker"]["remedy"]


def test_doctor_names_a_misspelt_setting_and_what_the_schema_lacks(cli: Cli, core: Backend) -> None:
    """A variable with the prefix of the settings that is none of them; a table, a constraint and an index."""
    code, found = checks(cli, {"INSTACHAT_LOGLIMIT": "5", "INSTACHAT_TOKEN": "x"})
    assert (code, found["settings"]["severity"]) == (0, "warning")
    assert "INSTACHAT_LOGLIMIT" in found["settings"]["message"]
    assert "INSTACHAT_LOG_LIMIT" in found["settings"]["remedy"]
    assert "TOKEN" not in found["settings"]["message"]
    with core.database.begin() as tx:
        tx.exec_driver_sql("DROP TABLE reconciliation")
        tx.exec_driver_sql("ALTER TABLE chat DROP CONSTRAINT chat_application_id_number_key")
        tx.exec_driver_sql("DROP INDEX application_created_at")
    code, found = checks(cli)
    assert (code, found["tables"]["severity"]) == (4, "error")
    for name in (
        "table reconciliation",
        "chat_application_id_number_key of chat",
        "index application_created_at",
    ):
        assert name in found["tables"]["message"]


def test_doctor_reports_a_role_that_cannot_write(cli: Cli, core: Backend) -> None:
    """It names the role and what it lacks."""
    need_sessions()  # a pooler knows no other role
    role = f"reader_{uuid4().hex}"
    with core.database.begin() as tx:
        tx.exec_driver_sql(
            f"CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
        )
    try:
        url = make_url(str(cli.env["INSTACHAT_DATABASE_URL"])).set(username=role)
        code, found = checks(
            cli, {"INSTACHAT_DATABASE_URL": url.render_as_string(hide_password=False)}
        )
        assert (code, found["privileges"]["severity"]) == (4, "error")
        assert f"{role} lacks INSERT on application" in found["privileges"]["message"]
    finally:
        with core.database.begin() as tx:
            tx.exec_driver_sql(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.fixture
def careless(fork_server: ForkServer, engines: Engines) -> Iterator[tuple[Cli, "redis.Redis"]]:
    """The program on a Redis without persistence and a migrated database."""
    server = RedisServer(valkey_binary(), "--appendfsync", "no", "--maxmemory", "1gb")
    try:
        server.start()
        client = server.client()
        client.config_set("maxmemory-policy", "allkeys-lru")
        yield Cli(fork_server, database_url=engines.fresh_database(), redis_url=server.url), client
    finally:
        server.remove()


def test_doctor_reports_settings_of_redis_that_void_the_durability(
    careless: tuple[Cli, "redis.Redis"],
) -> None:
    """It names the remedy. If Redis does not show its settings, the result of the check is unknown."""
    cli, client = careless
    code, found = checks(cli)
    assert code == 4
    finding = found["Redis's durability"]
    assert finding["severity"] == "error"
    assert "appendfsync is no" in finding["message"]
    assert "CONFIG SET appendfsync always maxmemory-policy noeviction" in finding["remedy"]
    client.config_set("appendfsync", "everysec")
    client.config_set("maxmemory-policy", "noeviction")
    assert checks(cli, {"INSTACHAT_DURABILITY": "fast"})[0] == 0
    client.execute_command("ACL", "SETUSER", "default", "-config")
    code, found = checks(cli)
    assert found["Redis's durability"]["severity"] == "unknown"
    assert code == 0


def test_creating_warns_if_settings_of_redis_void_the_durability(
    careless: tuple[Cli, "redis.Redis"],
) -> None:
    """The warning is one line that names `doctor`. Creating succeeds, and reading does not warn."""
    cli, _ = careless
    made = cli("apps", "create", "x")
    assert made.code == 0
    assert len(made.err.splitlines()) == 1
    assert "warning: " in made.err
    assert "`instachat doctor`" in made.err
    assert cli("apps", "list").err == ""


def test_doctor_reports_missing_permissions_in_redis(careless: tuple[Cli, "redis.Redis"]) -> None:
    """Without INFO or EVALSHA, nothing can be accepted."""
    cli, client = careless
    client.execute_command("ACL", "SETUSER", "default", "-evalsha")
    code, found = checks(cli)
    assert (code, found["Redis's scripts"]["severity"]) == (4, "error")
    client.execute_command("ACL", "SETUSER", "default", "+evalsha", "-info")
    code, found = checks(cli)
    assert (code, found["Redis"]["severity"]) == (4, "error")


def test_replicas_of_a_redis_without_waitaof_are_refused(
    oldest_engines: Engines, fork_server: ForkServer
) -> None:
    """Redis 7.0 could not say what its replicas have: servers do not start, and nothing is accepted."""
    settings = oldest_engines.installation()
    urls = {"database_url": settings.database_url, "redis_url": settings.redis_url}
    token = Cli(fork_server, **urls)("apps", "create", "x").json["token"]
    cli = Cli(fork_server, **urls, durable_replicas=1)
    with closing(Log(str(settings.redis_url))) as log:
        waiting = log.waiting(SHARDS)
    for command in (["serve"], ["up"], ["chats", "create", token]):
        refused = cli(*command)
        assert refused.code == 5
        assert "WAITAOF" in refused.err
        assert "Redis 7.2" in refused.err
    code, found = checks(cli)
    assert (code, found["Redis"]["severity"]) == (4, "error")
    assert "Redis 7.2" in found["Redis"]["remedy"]
    with closing(Log(str(settings.redis_url))) as log:
        assert log.waiting(SHARDS) == waiting


def test_doctor_reports_a_redis_of_another_installation(
    careless: tuple[Cli, "redis.Redis"], engines: Engines, fork_server: ForkServer
) -> None:
    """The numbers in it belong to another database."""
    cli, _ = careless
    cli("apps", "create", "x")
    other = Cli(
        fork_server, database_url=engines.fresh_database(), redis_url=cli.env["INSTACHAT_REDIS_URL"]
    )
    code, found = checks(other)
    assert (code, found["installation"]["severity"]) == (4, "error")


def test_doctor_exits_with_5_if_an_engine_is_unreachable(cli: Cli) -> None:
    """The other checks still run."""
    for name, scheme in (("DATABASE", "postgresql"), ("REDIS", "redis"), ("HUEY", "redis")):
        url = f"{scheme}://127.0.0.1:{free_port()}/0"
        code, found = checks(cli, {f"INSTACHAT_{name}_URL": url})
        assert code == 5
        wrong = [check for check, finding in found.items() if finding["severity"] == "error"]
        expected = {"DATABASE": "PostgreSQL", "REDIS": "Redis", "HUEY": "job queue"}[name]
        assert expected in wrong
        assert found["settings"]["severity"] == "ok"


def test_doctor_reports_an_invalid_setting(cli: Cli) -> None:
    """It is the error of the check of settings, and names the setting."""
    code, found = checks(cli, {"INSTACHAT_DURABILITY": "sometimes"})
    assert (code, found["settings"]["severity"]) == (4, "error")
    assert "INSTACHAT_DURABILITY" in found["settings"]["message"]


def test_doctor_reports_a_database_that_is_not_migrated_or_not_in_utf8(
    engines: Engines, fork_server: ForkServer
) -> None:
    """The remedy of the first is `migrate`; a database of another encoding is not used."""
    redis_url = engines.redis_database()
    code, found = checks(
        Cli(fork_server, database_url=engines.bare_database(), redis_url=redis_url)
    )
    assert (code, found["schema"]["remedy"]) == (4, "run `instachat migrate`")
    latin = engines.bare_database(
        "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    code, found = checks(Cli(fork_server, database_url=latin, redis_url=redis_url))
    assert (code, found["PostgreSQL"]["severity"]) == (4, "error")
    assert "LATIN1" in found["PostgreSQL"]["message"]


def test_doctor_and_status_count_a_running_worker(cli: Cli, worker: object) -> None:
    assert worker
    assert checks(cli)[1]["worker"]["severity"] == "ok"
    assert cli("status").json["workers"] == 1
