"""docs/scale.md: its commands, settings, options and links exist, and its steps work as shown."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from backend.bootstrap import open_backend
from backend.ingest.requests import AcceptRequest
from backend.settings import Settings, as_environment
from instachat_cli.program import app
from tests.conftest import Engines
from tests.support.redis_cluster import RedisCluster
from tests.support.waiting import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- (?:run: (\w+)|commands) -->\n```(?:sh|conf)\n(.*?)```", PAGE, re.DOTALL)
RUN = dict(BLOCKS)
DATABASE = "postgresql://instachat:secret@db.example/instachat"


def commands() -> list[list[str]]:
    """Every call of the program, in blocks and in the text, as its words after its name."""
    lines = [line for _, block in BLOCKS for line in block.splitlines()]
    lines += re.findall(r"`(instachat [^`]+)`", PAGE)
    return [shlex.split(line)[1:] for line in lines if line.startswith("instachat ")]


def test_every_block_is_run_or_checked() -> None:
    assert len(BLOCKS) == PAGE.count("\n```sh\n") + PAGE.count("\n```conf\n")


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_each_command_exists_with_its_options(words: list[str]) -> None:
    command = get_command(app)
    while words and (inner := getattr(command, "commands", {}).get(words[0])):
        command, words = inner, words[1:]
    assert not getattr(command, "commands", None), words
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


def test_each_setting_and_target_exists() -> None:
    settings = {f"INSTACHAT_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"INSTACHAT_\w+", PAGE)) <= settings
    targets = re.findall(r"`make (\w+)", PAGE)
    assert {"scale"} <= set(targets)
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=True)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)\)", PAGE))))
def test_each_link_leads_somewhere(link: str) -> None:
    """To a file, and to a heading of it."""
    file, _, anchor = link.partition("#")
    text = (ROOT / "docs" / file).read_text(encoding="utf-8") if file else PAGE
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    assert not anchor or anchor in {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
    }


def test_postgresql_knows_the_recommended_settings(engines: Engines) -> None:
    for line in RUN["postgresql"].splitlines():
        name = line.partition(" = ")[0]
        assert engines.postgres.query(f"SELECT count(*) FROM pg_settings WHERE name = '{name}'")


def test_an_installation_moves_to_a_cluster_whose_slots_then_move(
    engines: Engines, redis_cluster: RedisCluster
) -> None:
    """As in steps 2 and 5, with the recommended settings. The numbers go on."""
    for node in redis_cluster.nodes:
        for line in RUN["redis"].splitlines():
            node.ask("CONFIG", "SET", *line.split())
    first = engines.installation()
    database, redis = str(first.database_url), str(first.redis_url)
    run(RUN["engines"], (DATABASE, database), ("redis://redis.example:6379/0", redis))
    with open_backend(first) as backend:
        token = backend.catalog.applications.create("growing").token
        backend.acceptor.accept(AcceptRequest.chats(token))
        backend.acceptor.accept(AcceptRequest.messages(token, 1, ["before"]))
        backend.drainer.drain_all()

    nodes = "redis1.example:6379,redis2.example:6379,redis3.example:6379"
    urls = (
        (f"redis+cluster://{nodes}", redis_cluster.url),
        ("redis://queue.example:6379/0", redis),
    )
    run(RUN["cluster"], *urls, database=database)
    source, target, _ = redis_cluster.masters
    settings = Settings(database_url=database, redis_url=redis_cluster.url, huey_url=redis)
    with open_backend(settings) as backend:
        for words in RUN["migrate"].replace('"$NEW_NODE_ID"', target.id).splitlines():
            source.ask(*shlex.split(words)[3:])
        wait_until(lambda: redis_cluster.master_of(1023) is target)
        answer = backend.acceptor.accept(AcceptRequest.messages(token, 1, ["after"]))
        assert answer.first == 2


def run(script: str, *replaced: tuple[str, str], database: str = "") -> None:
    """Run commands of the page as a user would paste them."""
    for shown, actual in replaced:
        assert shown in script
        script = script.replace(shown, f"'{actual}'")
    assert "example" not in script
    outside = {k: v for k, v in os.environ.items() if not k.startswith("INSTACHAT_")}
    inside = as_environment(Settings(database_url=database)) if database else {}
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", script.replace("doctor", "doctor || true")],
        env=outside | inside | path,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
