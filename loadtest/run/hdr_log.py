"""A run's latencies as an HdrHistogram log, which the tools of HdrHistogram read and plot.

The log has the format of version 1.3. Each histogram has the compressed encoding V2, in microseconds, to
three significant digits. Both are written here: `hdrhistogram` has no wheels for ARM on Linux, needs
setuptools when it runs, and can't write tags. A test compares with what that package encodes.

An interval without a tag is a second of the run, with the requests that were due in it. An interval with a
tag is the measured window, for one route.
"""

import base64
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

SIGNIFICANT_DIGITS = 3
HALF_BITS = 10  # half of the places of a bucket, 2 ** 11, which are enough for three digits
LOWEST, HIGHEST = 1, 2**32  # microseconds: a recorded request has 32 bits
V2_COOKIE, V2_COMPRESSED_COOKIE = 0x1C849303 | 0x10, 0x1C849304 | 0x10
_header = struct.Struct(">iiiiqqd")  # cookie, length, offset, digits, lowest, highest, ratio
_envelope = struct.Struct(">ii")  # cookie, length
LEGEND = '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"'


class Interval(NamedTuple):
    """The latencies of a part of the run, encoded; `tag` is empty for those of all routes."""

    tag: str
    from_s: float
    seconds: float
    max_ms: float
    histogram: str

    @property
    def line(self) -> str:
        """Its line of the log."""
        # A tag has no spaces and no commas.
        tag = f"Tag={self.tag.replace(' ', ':')}," if self.tag else ""
        return f"{tag}{self.from_s:.3f},{self.seconds:.3f},{self.max_ms:.3f},{self.histogram}"


def log_lines(started: datetime, intervals: Sequence[Interval]) -> Iterator[str]:
    """The lines of the log, without line ends. Times of intervals are seconds since `started`."""
    yield "#[Histogram log format version 1.3]"
    yield "#[Values are microseconds; Interval_Max is milliseconds]"
    yield f"#[StartTime: {started.timestamp():.3f} (seconds since epoch), {started.isoformat(' ')}]"
    yield LEGEND
    yield from (interval.line for interval in intervals)


def encode(counts: Mapping[int, int]) -> str:
    """How often each latency, in microseconds, occurred, as a compressed histogram in Base64."""
    places: dict[int, int] = {}
    for micros, times in counts.items():
        place = _place(min(max(micros, LOWEST), HIGHEST))
        places[place] = places.get(place, 0) + times
    payload, following = bytearray(), 0
    for place, times in sorted(places.items()):
        if place > following:
            payload += _zigzag(following - place)  # a negative number: so many places without any
        payload += _zigzag(times)
        following = place + 1
    data = _header.pack(V2_COOKIE, len(payload), 0, SIGNIFICANT_DIGITS, LOWEST, HIGHEST, 1.0)
    compressed = zlib.compress(data + payload)
    envelope = _envelope.pack(V2_COMPRESSED_COOKIE, len(compressed))
    return base64.b64encode(envelope + compressed).decode()


def _place(micros: int) -> int:
    """The index of a value's count: buckets of 2 ** HALF_BITS places, each place twice as wide as before."""
    bucket = max(micros.bit_length() - HALF_BITS - 1, 0)
    return (bucket << HALF_BITS) + (micros >> bucket)


def _zigzag(number: int) -> bytes:
    """A number as ZigZag LEB128 of at most nine bytes, the last of which has all of its bits."""
    rest, encoded = (number << 1) ^ (number >> 63), bytearray()
    while rest >= 0x80 and len(encoded) < 8:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)
