"""HdrHistogram logs of latencies."""

import base64
import re
import struct
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loadtest.recording import LIST, SEND, Recorder, append_records
from loadtest.report.result import Window
from loadtest.run.choices import Profile, Scenario
from loadtest.run.hdr_log import Interval, encode, log_lines
from loadtest.run.plan import plan
from loadtest.run.statistics import Statistics

ENCODED = {
    "HISTFAAAABh4nJNpmSzMgADMUJoRihnsP0AEADomAns=": {},
    "HISTFAAAAB94nJNpmSzMwMDAzAABMJoRihnsP0AEvnMxAQBE/gOB": {700: 1},
    "HISTFAAAAC54nJNpmSzMwMAgxAABzFCaEYoZ7D9ABdh+yjOx/eZ/cJSD6bc818skJgCjLwje": {
        1: 3,
        2_047: 1,
        2_048: 2,
        2_049: 1,
        4_095: 70_000,
        4_096: 1,
        16_383: 5,
        1_234_567: 1,
    },
    "HISTFAAAACF4nJNpmSzMwMDAwgABzFCaEYoZ7D9ABP6+Z2ICAEttBG8=": {2**32 - 1: 1},
}
"""What `hdrhistogram` 0.10.8 encodes for histograms from 1 to 2 ** 32 with three digits."""


def decoded(histogram: str) -> bytes:
    """A histogram without its compression, whose bytes depend on the library that made it."""
    data = base64.b64decode(histogram)
    cookie, length = struct.unpack_from(">ii", data)
    assert (cookie, length) == (0x1C849314, len(data) - 8)
    return zlib.decompress(data[8:])


@pytest.mark.parametrize("expected", ENCODED)
def test_histograms_are_those_of_the_reference(expected: str) -> None:
    """Byte for byte: empty, small, at the edges of buckets, large counts, the highest value."""
    assert decoded(encode(ENCODED[expected])) == decoded(expected)


def test_what_is_out_of_range_counts_as_the_nearest_value() -> None:
    """Of a recorded request, 0 can be out of range; nothing is left out."""
    assert encode({0: 2, 1: 1}) == encode({1: 3})
    assert encode({2**40: 1}) == encode({2**32: 1})


def test_a_log_has_each_second_and_each_route(tmp_path: Path) -> None:
    """A tag has neither a space nor a comma; the routes cover the measured window only."""
    planned = plan(Scenario.INGEST, Profile.SMOKE, 1, rate=10, seconds=10)
    recorder = Recorder()
    for tenth in range(100):
        recorder.record_request(tenth / 10, 5_000 + tenth, SEND if tenth % 2 else LIST, 202, False)
    append_records(tmp_path, "a", recorder.take())
    statistics = Statistics(tmp_path, planned)
    statistics.read()
    started = datetime(2026, 11, 1, tzinfo=UTC)
    head, *rest = log_lines(started, statistics.intervals(Window(2, 10)))
    assert head == "#[Histogram log format version 1.3]"
    start = next(line for line in rest if line.startswith("#[StartTime: "))
    assert re.match(r"#\[StartTime: 1793491200\.000 \(seconds since epoch\), 2026-11-01", start)
    intervals = [line.split(",") for line in rest if not line.startswith(("#", '"'))]
    assert [line[0] for line in intervals[:10]] == [f"{second}.000" for second in range(10)]
    second = encode({5_000 + tenth: 1 for tenth in range(30, 40)})
    assert intervals[3] == ["3.000", "1.000", "5.039", second]
    tags = [line[:3] for line in intervals[10:]]
    assert tags == [
        ["Tag=POST:/applications/{token}/chats/{chat}/messages", "2.000", "8.000"],
        ["Tag=GET:/applications/{token}/chats/{chat}/messages", "2.000", "8.000"],
    ]
    sent = encode({5_000 + tenth: 1 for tenth in range(21, 100, 2)})
    assert intervals[10][3:] == ["5.099", sent]


def test_an_interval_without_requests() -> None:
    """It has a line, too."""
    assert Interval("", 1, 1, 0, encode({})).line.startswith("1.000,1.000,0.000,HISTFAAAA")
