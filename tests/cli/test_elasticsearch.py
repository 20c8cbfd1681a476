"""The command line with Elasticsearch: waiting, status, doctor, settings, and an unreachable node."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from backend.bootstrap import Backend, open_backend
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings
from tests.cli.conftest import Cli
from tests.cli.test_terminal import COLUMNS, Case, N, World, run_and_look
from tests.conftest import Engines
from tests.support.elasticsearch.fixtures import Elasticsearch
from tests.support.elasticsearch.requests import (
    fill_only_chat,
    live_index_name,
    publish_all,
    request_elasticsearch,
)
from tests.support.engines import free_port
from tests.support.fork_server import ForkedProcess, ForkServer
from tests.support.waiting import promised, wait_until

NOWHERE = {"INSTACHAT_ELASTICSEARCH_URL": f"http://user:secret@127.0.0.1:{free_port()}"}


@pytest.fixture
def installation(engines: Engines, elasticsearch: Elasticsearch) -> Settings:
    """An installation with a search index, for one test."""
    return engines.installation(elasticsearch_url=elasticsearch.url)


@pytest.fixture
def cli(installation: Settings, fork_server: ForkServer) -> Cli:
    """The program on that installation."""
    return Cli(
        fork_server,
        database_url=installation.database_url,
        redis_url=installation.redis_url,
        elasticsearch_url=installation.elasticsearch_url,
    )


def severities(cli: Cli, **env: str) -> dict[str, tuple[str, str, str | None]]:
    """Severity, message and remedy of each check of doctor."""
    return {
        line["check"]: (line["severity"], line["message"], line["remedy"])
        for line in cli("doctor", env=env).lines
    }


def test_wait_searchable_without_a_worker_publishes_the_messages_itself(
    cli: Cli, token: str, chat: int
) -> None:
    """Afterwards a search finds a single message as well as those from standard input."""
    made = cli("messages", "create", token, chat, "a first word", "--wait", "searchable")
    assert (made.code, made.json, made.err) == (0, {"number": 1}, "")
    assert [hit["number"] for hit in cli("search", token, chat, "WORD").lines] == [1]
    lines = "".join(f"word {number}\n" for number in range(2_500))
    many = cli("messages", "create", token, chat, "-", "--wait", "searchable", stdin=lines)
    assert many.code == 0
    assert len(cli("search", token, chat, "word").lines) == 2_501


def test_wait_searchable_waits_until_a_worker_has_published(
    cli: Cli, token: str, chat: int, worker: ForkedProcess
) -> None:
    """A chat only has to be stored, because chats are not searched."""
    assert worker.poll() is None
    assert cli("messages", "create", token, chat, "a word", "--wait", "searchable").code == 0
    assert len(cli("search", token, chat, "word").lines) == 1
    assert cli("chats", "create", token, "--wait", "searchable").code == 0
    assert cli("messages", "edit", token, chat, 1, "another text").code == 0
    wait_until(lambda: cli("status").json["not_searchable"] == 0)
    wait_until(lambda: len(cli("search", token, chat, "another").lines) == 1)
    assert cli("search", token, chat, "word").lines == []


def test_without_a_worker_a_search_finds_what_is_stored(cli: Cli, token: str, chat: int) -> None:
    """The message is stored but not published, since no worker runs."""
    cli("messages", "create", token, chat, "a word", "--wait", "stored")
    searched = cli("search", token, chat, "word")
    assert ([line["number"] for line in searched.lines], searched.err) == ([1], "")
    assert cli("status").json["not_searchable"] == 1


def test_away_a_search_finds_what_is_stored_within_five_seconds(
    cli: Cli, token: str, chat: int
) -> None:
    """So what is created is searchable; `status` exits with 5."""
    made = cli("messages", "create", token, chat, "a word", "--wait", "stored", env=NOWHERE)
    assert (made.code, made.json) == (0, {"number": 1})
    made = cli("messages", "create", token, chat, "a word", "--wait", "searchable", env=NOWHERE)
    assert (made.code, made.json) == (0, {"number": 2})
    with promised(5):
        searched = cli("search", token, chat, "word", env=NOWHERE)
    assert searched.code == 0
    assert [line["number"] for line in searched.lines] == [1, 2]
    assert searched.err == ""
    seen = cli("status", "-o", "json", env=NOWHERE)
    assert seen.code == 5
    assert [one["reachable"] for one in seen.json["engines"]] == [True, True, False]
    assert seen.json["not_searchable"] == 2
    assert "secret" not in searched.err + made.err + seen.err + seen.out


def test_away_a_search_in_a_large_chat_says_what_may_be_missing(
    cli: Cli, core: Backend, token: str, chat: int
) -> None:
    """On standard error; what is printed are messages that contain the keyword."""
    cli("messages", "create", token, chat, "a word", "--wait", "stored")
    fill_only_chat(core, 100_001)
    searched = cli("search", token, chat, "word", env=NOWHERE)
    assert (searched.code, [line["number"] for line in searched.lines]) == (0, [1])
    assert "the search index does not answer" in searched.err
    assert "may be missing" in searched.err
    assert "secret" not in searched.err


def test_status_and_doctor_show_the_index(cli: Cli, core: Backend, token: str, chat: int) -> None:
    """They have its name, the version of Elasticsearch, and the messages that are not searchable yet."""
    cli("messages", "create", token, chat, "a word", "--wait", "searchable")  # makes the index
    seen = cli("status").json
    assert [one["engine"] for one in seen["engines"]][2] == "Elasticsearch"
    assert seen["engines"][2]["version"].startswith(("8.", "9."))
    assert seen["search_index"] == live_index_name(core)
    shown = cli("status", "-o", "table").out
    assert "not searchable yet" in shown
    assert live_index_name(core) in shown
    found = severities(cli)
    for check in ("Elasticsearch", "Elasticsearch's security", "search index", "publishing"):
        assert found[check][0] == "ok", found[check]


def test_a_cluster_of_which_a_node_answers_is_searched_and_doctor_names_the_others(
    cli: Cli, elasticsearch: Elasticsearch, token: str, chat: int
) -> None:
    """The password is given with one host, and printed nowhere."""
    dead = f"127.0.0.1:{free_port()}"
    live = elasticsearch.url.removeprefix("http://")
    url = {"INSTACHAT_ELASTICSEARCH_URL": f"http://u:secret@{dead},{live}"}
    made = cli("messages", "create", token, chat, "a word", "--wait", "searchable", env=url)
    assert made.code == 0
    assert [hit["number"] for hit in cli("search", token, chat, "word", env=url).lines] == [1]
    assert [one["reachable"] for one in cli("status", env=url).json["engines"]] == [True] * 3
    severity, said, remedy = severities(cli, **url)["Elasticsearch's hosts"]
    assert (severity, dead in said, live in said) == ("warning", True, False)
    assert "INSTACHAT_ELASTICSEARCH_URL" in str(remedy)
    both = severities(
        cli, INSTACHAT_ELASTICSEARCH_URL=f"http://{live},{live.replace('127', 'u:p@127')}"
    )
    assert "Elasticsearch's hosts" not in both  # it is one
    shown = cli("config", "show", env=url).out + cli("doctor", env=url).out
    assert "secret" not in shown
    assert f"http://u:***@{dead},{live}" in shown


def test_doctor_warns_of_replicas_that_have_no_node(
    cli: Cli, core: Backend, token: str, chat: int
) -> None:
    """A single node has none for them. Another index has what the settings say when it is made."""
    cli("messages", "create", token, chat, "a word", "--wait", "searchable")
    assert severities(cli)["search index's copies"][0] == "ok"
    spread = {"INSTACHAT_ELASTICSEARCH_SHARDS": "2", "INSTACHAT_ELASTICSEARCH_REPLICAS": "1"}
    severity, said, _ = severities(cli, **spread)["search index's copies"]
    assert (severity, "`instachat reindex`" in said) == ("ok", True)
    assert cli("reindex", env=spread).code == 0
    severity, said, remedy = severities(cli, **spread)["search index's copies"]
    assert (severity, said.partition(" ")[0]) == ("warning", "2")
    assert "INSTACHAT_ELASTICSEARCH_REPLICAS" in str(remedy)
    assert [hit["number"] for hit in cli("search", token, chat, "word", env=spread).lines] == [1]
    index = request_elasticsearch(core, "GET", f"/{live_index_name(core)}/_settings")
    (settings,) = (one["settings"]["index"] for one in index.values())
    assert (settings["number_of_shards"], settings["number_of_replicas"]) == ("2", "1")


def test_doctor_reports_why_messages_are_not_found(
    cli: Cli, core: Backend, token: str, chat: int
) -> None:
    """The causes are another mapping, a lost index and an old outbox; each has its remedy."""
    cli("messages", "create", token, chat, "a word", "--wait", "searchable")  # makes the index

    def broken(*statements: str) -> dict[str, tuple[str, str, str | None]]:
        with core.database.begin() as tx:
            for statement in statements:
                tx.exec_driver_sql(statement)
        return severities(cli)

    severity, said, remedy = broken("UPDATE search_index SET mapping = 99")["search index"]
    assert (severity, "mapping 99" in said) == ("error", True)
    assert "instachat reindex" in str(remedy)
    old = "INSERT INTO outbox (chats, numbers, versions, created_at, leased_until) VALUES"
    later = "now() - interval '2 min', now() + interval '1 h'"
    found = broken(
        "UPDATE search_index SET mapping = 1", f"{old} ('{{0}}', '{{1}}', '{{1}}', {later})"
    )
    severity, said, _ = found["publishing"]
    assert (severity, "1 message waits" in said) == ("warning", True)
    name = live_index_name(core)
    gone = f"UPDATE search_index SET name = '{name}0'"
    severity, said, remedy = broken("DELETE FROM outbox", gone)["search index"]
    assert (severity, f"{name}0 is not in Elasticsearch" in said) == ("error", True)
    assert "instachat reindex" in str(remedy)
    broken(f"UPDATE search_index SET name = '{name}'")


def test_doctor_says_what_to_run_where_there_is_no_index(
    engines: Engines, elasticsearch: Elasticsearch, fork_server: ForkServer
) -> None:
    """The URL was set after messages were stored. Without the URL, a warning says that changes are queued."""
    settings = engines.installation()
    plain = Cli(fork_server, database_url=settings.database_url, redis_url=settings.redis_url)
    with open_backend(settings) as core:
        token = core.catalog.applications.create("test").token
        core.acceptor.accept(AcceptRequest.chats(token))
        core.acceptor.accept(AcceptRequest.messages(token, 1, ["a word"]))
        core.drainer.drain_all()
        url = {"INSTACHAT_ELASTICSEARCH_URL": elasticsearch.url}
        searched = plain("search", token, 1, "word", env=url)
        assert (searched.code, len(searched.lines)) == (0, 1)  # PostgreSQL searches
        severity, _, remedy = severities(plain, **url)["search index"]
        assert severity == "error"
        assert "instachat reindex" in str(remedy)
        assert len(plain("search", token, 1, "word").lines) == 1
        assert severities(plain)["search"][0] == "ok"
        with core.database.begin() as tx:
            tx.exec_driver_sql("UPDATE installation SET publishing = true")
        severity, said, remedy = severities(plain)["search"]
        assert (severity, "no longer set" in said) == ("warning", True)
        assert "instachat reindex --abort" in str(remedy)


def test_doctor_warns_of_an_unencrypted_connection_to_another_host(cli: Cli) -> None:
    """It does not print the password of the URL."""
    found = cli(
        "doctor", env={"INSTACHAT_ELASTICSEARCH_URL": "http://u:secret@nowhere.invalid:9200"}
    )
    assert found.code == 5
    severity = {line["check"]: line["severity"] for line in found.lines}
    assert severity["Elasticsearch's security"] == "warning"
    assert severity["Elasticsearch"] == "error"
    assert "secret" not in found.out + found.err


@pytest.mark.parametrize(
    "url", ["localhost:9200", "http://a/b,c", "ftp://h:1", "http://", "http://[", "http://h:x"]
)
def test_an_invalid_url_of_elasticsearch_is_reported(url: str, cli: Cli) -> None:
    """The command fails before it sends a request."""
    done = cli("status", env={"INSTACHAT_ELASTICSEARCH_URL": url})
    assert done.code == 2
    assert "INSTACHAT_ELASTICSEARCH_URL" in done.err


def test_config_show_hides_the_password_and_the_api_key(cli: Cli, tmp_path: Path) -> None:
    env = {
        "INSTACHAT_ELASTICSEARCH_URL": "https://u:secret1@es:9200",
        "INSTACHAT_ELASTICSEARCH_API_KEY": "secret2",
        "INSTACHAT_ELASTICSEARCH_CA_FILE": str(tmp_path / "ca.pem"),
    }
    shown = cli("config", "show", env=env)
    assert "secret" not in shown.out
    assert "https://u:***@es:9200" in shown.out
    rows = {row["setting"]: row for row in shown.lines}
    assert set(rows["INSTACHAT_ELASTICSEARCH_API_KEY"]["value"]) == {"*"}
    assert rows["INSTACHAT_ELASTICSEARCH_CA_FILE"]["value"] == str(tmp_path / "ca.pem")


def test_commands_on_an_index_draw_progress_bars(
    engines: Engines, elasticsearch: Elasticsearch, fork_server: ForkServer, tmp_path: Path
) -> None:
    """A reindex draws one for each step. `reconcile` counts documents, too; see also `test_terminal`."""
    settings = engines.settings(elasticsearch_url=elasticsearch.url)
    cli = Cli(
        fork_server,
        database_url=settings.database_url,
        redis_url=settings.redis_url,
        elasticsearch_url=settings.elasticsearch_url,
    )
    with open_backend(settings) as core, ExitStack() as at_end:
        world = World(core, tmp_path, at_end)
        assert world.token
        publish_all(core)
        for columns in COLUMNS:
            for command, case in (
                ("reindex", Case("", "searches now use", f"{N} messages copied", prose=True)),
                ("reindex", Case("", "searches now use", f"{N} messages compared", prose=True)),
                ("reindex", Case("--check", "matches", f"{N} messages compared", prose=True)),
                ("reconcile", Case("", "0 differences", f"{N} keys")),
                ("status", Case("", "instachat")),
            ):
                run_and_look(cli, world, command, case, columns)
