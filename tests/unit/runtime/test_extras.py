"""What an installation without an extra says."""

import sys

import pytest

from backend.bootstrap import open_backend
from backend.domain.errors import Failed
from backend.settings import Settings
from instachat_cli.program import invoke
from instachat_cli.runtime import extras


@pytest.mark.parametrize("command", ["run", "ceilings", "growth"])
def test_a_benchmark_names_the_extra_that_it_lacks(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Before it does anything else; its help works."""
    monkeypatch.setattr(extras, "BENCH_MODULES", ("json", "no_such_module"))
    assert invoke(["bench", command, "--help"]) == 0
    with pytest.raises(Failed) as caught:
        invoke(["bench", command])
    assert f"`instachat bench {command}`" in str(caught.value)
    assert "instachat[bench]" in str(caught.value.hint)


def test_a_missing_elasticsearch_is_named_before_an_engine_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None of these engines answers; the error is not theirs."""
    monkeypatch.setitem(sys.modules, "elasticsearch", None)
    settings = Settings(
        database_url="postgresql://127.0.0.1:9/x",
        redis_url="redis://127.0.0.1:9",
        elasticsearch_url="http://127.0.0.1:9",
    )
    with pytest.raises(Failed) as caught, open_backend(settings):
        pass
    assert "instachat[elasticsearch]" in str(caught.value.hint)
