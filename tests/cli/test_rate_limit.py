"""`apps limit`."""

from tests.cli.conftest import Cli


def test_a_limit_is_set_shown_and_lifted(cli: Cli, token: str, chat: int) -> None:
    """Beyond it a creation exits with 5, and says how long to wait."""
    assert cli("apps", "show", token).json["limit"] is None
    assert cli("apps", "limit", token, "1/s").json == {"token": token, "limit": "1/s"}
    assert cli("apps", "show", token).json["limit"] == "1/s"
    lines = "x\n" * 60
    assert cli("messages", "create", token, chat, "-", stdin=lines).code == 0
    refused = cli("messages", "create", token, chat, "x")
    assert refused.code == 5
    assert "1 chat or message a second" in refused.err
    assert "try again in" in refused.err
    assert cli("apps", "limit", token, "fast").code == 2
    assert cli("apps", "limit", "t" * 24, "1/s").code == 3
    assert cli("apps", "limit", token, "off").json["limit"] is None
    assert cli("messages", "create", token, chat, "x").json["number"] == 61
