"""Runs docs/api.md: every curl line works as shown, against a running `up`."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from backend.domain import serialization
from backend.domain.model import Message
from tests.docs.test_readme import ROOT, environment, run
from tests.support.engines import free_port
from tests.support.message_fields import LIMITS, MESSAGE_FIELDS
from tests.support.waiting import PATIENCE_SECONDS

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- run(?:: \w+)? -->\n```sh\n(.*?)```", re.DOTALL)

__all__ = ["environment"]  # a fixture that it shares with the README's tests


@pytest.fixture
def port(environment: dict[str, str]) -> Iterator[int]:
    """The port of an `up` that has an operator's token."""
    port = free_port()
    environment |= {"INSTACHAT_PORT": str(port), "INSTACHAT_ADMIN_TOKEN": "for operators"}
    up = subprocess.Popen(
        [".venv/bin/instachat", "up"],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert up.stderr
        said = ""
        while "ready" not in said.lower():
            line = up.stderr.readline()
            assert line, said
            said += line
        yield port
        up.send_signal(signal.SIGINT)
        assert up.wait(PATIENCE_SECONDS) == 0
    finally:
        up.kill()
        up.wait()


def test_every_curl_line_works(port: int, environment: dict[str, str]) -> None:
    """All blocks run in order, as a user would paste them; each answers what the page says."""
    assert len(BLOCK.findall(PAGE)) == PAGE.count("```sh")
    script = "\n".join(BLOCK.findall(PAGE)).replace("127.0.0.1:3000", f"127.0.0.1:{port}")
    done = run(re.sub("^curl", "echo; curl", script, flags=re.MULTILINE), environment)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [line for line in done.stdout.splitlines() if line]
    assert answers.count('{"number":1}') == 2
    assert '{"number":2}' in answers
    assert '{"first":3,"last":5}' in answers
    assert '"highlight":[[0,7]]' in done.stdout
    assert '"text":"Good night"' in done.stdout
    assert answers.count('{"number":3}') == 2  # the same idempotency key twice
    assert "urn:problem-type:instachat:not-found" in done.stdout
    assert "urn:problem-type:instachat:invalid" in done.stdout
    assert '"name":"Help desk"' in answers[-1]  # the operator's list


def test_the_stream_has_the_fields_of_a_message() -> None:
    """In the order of the JSON body."""
    at = datetime(2026, 1, 31, tzinfo=UTC)
    message = Message(number=1, created_at=at, updated_at=at, version=1, **MESSAGE_FIELDS)
    (example,) = re.findall(r"^data: (\{.*\})$", PAGE, re.MULTILINE)
    assert list(json.loads(example)) == list(serialization.message(message))


def test_the_page_shows_each_field_of_a_message() -> None:
    """A client writes each in an example, and learns its limit."""
    examples = "\n".join(BLOCK.findall(PAGE))
    assert [name for name in MESSAGE_FIELDS if f'"{name}"' not in examples] == []
    prose = PAGE.replace("\n", " ")
    limits = [
        f"`{name}` of a message has 1 to {limit:,} characters" for name, limit in LIMITS.items()
    ]
    assert [limit for limit in limits if limit not in prose] == []
