"""The run second by second: requests, samples, deliveries and resource readings joined."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import median

from loadtest.report.result import Moment
from loadtest.run.resource_monitor import Reading
from loadtest.run.sampler import Sample
from loadtest.run.statistics import Statistics


def timeline(
    statistics: Statistics,
    samples: Iterable[Sample],
    readings: Iterable[Reading],
    delivered_ms: Mapping[int, float | None],
) -> list[Moment]:
    """One Moment for each second of the run, oldest first; `delivered_ms` are medians by second."""
    reading_by_second = {int(reading.at_s): reading for reading in readings}
    samples_by_second: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        samples_by_second[int(sample.at_s)].append(sample)
    moments = []
    for moment in statistics.timeline():
        second = int(moment.at_s)
        sampled, reading = samples_by_second[second], reading_by_second.get(second)
        moments.append(
            replace(
                moment,
                stored_ms=_median([sample.stored_ms for sample in sampled]),
                searchable_ms=_median([sample.searchable_ms for sample in sampled]),
                cpu_generator=reading and reading.generator,
                cpu_servers=reading and reading.servers,
                memory_servers_mb=reading and reading.servers_mb,
                delivered_ms=delivered_ms.get(second),
            )
        )
    return moments


def _median(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return round(median(present), 3) if present else None
