"""Profiles of several runs: added up, and the share of the time that each function took itself."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from loadtest.report.result import Frame, Profile, Result

WHOLE = "all"  # the first frame of each profile
MAX_ROWS = 10


def frames_of(samples: Mapping[tuple[str, ...], int]) -> list[Frame]:
    """A tree from the samples of each path of functions, in the order of a walk, with children by name."""
    return [Frame(len(path) - 1, path[-1], count) for path, count in sorted(samples.items())]


def merged(profiles: Sequence[Profile]) -> Profile | None:
    """The sum of the profiles of one part of the program; None without any."""
    if not profiles:
        return None
    samples: Counter[tuple[str, ...]] = Counter()
    for profile in profiles:
        path: list[str] = []
        for frame in profile.frames:
            path[frame.depth :] = [frame.name]
            samples[tuple(path)] += frame.samples
    return Profile(
        of=profiles[0].of,
        seconds=round(sum(profile.seconds for profile in profiles), 2),
        rate=profiles[0].rate,
        samples=sum(profile.samples for profile in profiles),
        frames=frames_of(samples),
    )


def profiles_by_part(results: Iterable[Result]) -> dict[str, Profile]:
    """The profiles of several runs, added up for each part of the program."""
    found: defaultdict[str, list[Profile]] = defaultdict(list)
    for result in results:
        for profile in result.profiles:
            found[profile.of].append(profile)
    return {part: total for part, each in found.items() if (total := merged(each))}


def self_shares(profile: Profile) -> dict[str, float]:
    """The share of the samples, 0 to 1, in which each function itself ran, and not one that it called."""
    own: defaultdict[str, int] = defaultdict(int)
    callers: list[str] = []  # the functions above
    for frame in profile.frames:
        del callers[frame.depth :]
        own[frame.name] += frame.samples
        if callers:
            own[callers[-1]] -= frame.samples
        callers.append(frame.name)
    return {name: count / profile.samples for name, count in own.items() if count > 0}


def where_the_time_went(old: Sequence[Result], new: Sequence[Result]) -> Iterator[str]:
    """Markdown: the functions whose own share has changed most; nothing unless both sides have profiles."""
    before, after = profiles_by_part(old), profiles_by_part(new)
    for part in before.keys() & after.keys():
        shares = self_shares(before[part]), self_shares(after[part])
        names = sorted(
            shares[0].keys() | shares[1].keys(),
            key=lambda name: (-abs(shares[1].get(name, 0) - shares[0].get(name, 0)), name),
        )
        yield ""
        yield f"| time of the {part} in | before | after |"
        yield "| --- | ---: | ---: |"
        for name in names[:MAX_ROWS]:
            yield f"| `{name}` | {shares[0].get(name, 0):.1%} | {shares[1].get(name, 0):.1%} |"
