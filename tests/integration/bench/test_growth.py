"""`bench growth`: measures every stage at every size, writes a report with a plot, and leaves nothing."""

import os
from pathlib import Path

import pytest

from backend.domain.errors import Invalid
from backend.settings import Settings
from instachat_cli.bench.cases import growth
from instachat_cli.bench.cases.growth import Axis, GrowthStage
from instachat_cli.program import invoke
from tests.integration.bench.test_cases import left_behind
from tests.support.elasticsearch.fixtures import Elasticsearch

SIZES = ("--messages", "200,1500", "--chats", "100,300")


def test_each_stage_is_measured_at_each_size_and_reported(
    settings: Settings,
    elasticsearch: Elasticsearch,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """With Elasticsearch; the report names the first limit and includes the plot."""
    monkeypatch.setattr(growth, "SPREAD_MESSAGES", 1_000)
    monkeypatch.setenv("INSTACHAT_DATABASE_URL", settings.database_url or "")
    monkeypatch.setenv("INSTACHAT_REDIS_URL", settings.redis_url or "")
    monkeypatch.setenv("INSTACHAT_ELASTICSEARCH_URL", elasticsearch.url)
    report = tmp_path / "growth.md"
    assert invoke(["bench", "growth", *SIZES, "--report", os.fspath(report)]) == 0
    text = report.read_text()
    for axis in Axis:
        table = text.partition(f"## By {axis}\n")[2].partition("##")[0]
        for stage in GrowthStage:
            (row,) = [r for r in table.splitlines() if r.startswith(f"| {stage} |")]
            cells = [cell.strip() for cell in row.strip("|").split("|")]
            assert all(float(cell.replace(",", "")) > 0 for cell in cells[2:4])
    assert "## The first limit" in text
    assert "](growth.png)" in text
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert left_behind(settings) == []


@pytest.mark.parametrize("wrong", ["", "200,100", "100,100", "50", "many", "100;200"])
def test_sizes_must_ascend(wrong: str) -> None:
    """From at least 100; otherwise the command rejects them before it starts."""
    with pytest.raises(Invalid, match="not a list of ascending sizes"):
        invoke(["bench", "growth", f"--messages={wrong}"])
