"""What a shard's epoch key holds: a string that the scripts write; scripts/shared.lua describes its parts."""

import re
from typing import Any, NamedTuple

from backend.domain.model import EntryId

_FORM = re.compile(
    rb"(?P<epoch>\d+) (?P<sequence>\d+) (?P<stored>\d+) (?P<issued>\d+)"
    rb" \d+ [0-9a-f]+ \S+ (?P<stored_epoch>\d+) .+"
)


class EpochValue(NamedTuple):
    """The log's last entry, the last one that is stored, and how many numbers were issued in all."""

    end: EntryId
    stored: EntryId
    issued: int


NO_EPOCH = EpochValue(EntryId(0, 0), EntryId(0, 0), 0)


def parse_epoch_value(value: Any) -> EpochValue:
    """The parts of a value; NO_EPOCH for any other value, and for none."""
    found = _FORM.fullmatch(value) if isinstance(value, bytes) else None
    if found is None:
        return NO_EPOCH
    epoch, sequence, stored, issued, stored_epoch = map(int, found.groups())
    return EpochValue(EntryId(epoch, sequence), EntryId(stored_epoch, stored), issued)
