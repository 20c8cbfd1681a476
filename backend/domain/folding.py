"""Folds texts, so that a search finds all spellings of a word, and locates matches in the original text.

The text of every stored message and every keyword are folded by the same `fold`. So a search is a substring
test between two folded strings, and all ways of searching agree:

    NFKC, case folding, NFKC; then the Arabic rules: marks are dropped, variants of a letter become one

Results depend on Python's Unicode version (`unicodedata.unidata_version`), but only for characters that the
older of two versions does not have.
"""

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from unicodedata import combining, decomposition, normalize

from backend.domain.errors import Invalid

MAX_KEYWORD = 256
"""The maximal length of a keyword in code points, before folding."""

MAX_GROWTH = 18
"""The maximal number of code points that one code point folds to (U+FDFA, a phrase in one character)."""

# Tatweel, the harakat and the Quranic annotation marks.
_ARABIC_DROPPED = re.compile(
    "[\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed]"
)
# All characters that the Arabic rules touch lie in this span.
_ARABIC = re.compile("[\u0610-\u06ed]")

# The two characters that fold to most, each with its NFKC: `normalize` takes far longer to make them.
_PHRASES = [(char, normalize("NFKC", char)) for char in "\ufdfa\ufdfb"]

# Two limits keep the time for hostile texts proportional to their length. No real text reaches them.
# A cluster is cut further only up to Unicode's own limit (UAX #15, stream-safe: a letter and 30 marks),
# because the time for that grows with the square of its length.
_MAX_CLUSTER = 31
# Longer runs of marks are sorted here, because the time of Python's `normalize` grows with the square of
# their number: 75 ms for 10,000, more than a minute for a batch of a thousand such messages.
_MANY_MARKS = 64


def fold(text: str) -> str:
    """Fold a text into the form that searches compare.

    One code point folds to 0 to `MAX_GROWTH` code points, so the result can be longer, shorter or
    empty. ASCII folds to its lower case.

    Do not fold a folded text again: that nearly always changes nothing, but where an Arabic mark or a tatweel
    was dropped, two characters are adjacent (the e and the acute of e, fatha, acute) that a second
    normalization would compose.
    """
    if text.isascii():
        return text.lower()
    if len(text) >= 2 * _MANY_MARKS and _has_many_marks(text):
        text = _many_marks().sub(_sorted_marks, text)
    for char, phrase in _PHRASES:
        if char in text:
            text = text.replace(char, phrase)
    # `normalize` returns most texts at once: a quick check shows that they are normalized.
    normal = normalize("NFKC", text)
    folded = normal.casefold()
    if folded != normal:
        folded = normalize("NFKC", folded)
    if _ARABIC.search(folded):
        # Together a third of the time of `translate`, which looks up every character.
        folded = (
            _ARABIC_DROPPED.sub("", folded)
            .replace("\u0622", "\u0627")  # آ with madda       → ا
            .replace("\u0623", "\u0627")  # أ with hamza above → ا
            .replace("\u0625", "\u0627")  # إ with hamza below → ا
            .replace("\u0671", "\u0627")  # ٱ with wasla       → ا
            .replace("\u0649", "\u064a")  # ى without dots     → ي
            .replace("\u06cc", "\u064a")  # ی Persian, Urdu    → ي
            .replace("\u06a9", "\u0643")  # ک Persian, Urdu    → ك
        )
    return folded


def fold_keyword(keyword: str) -> str:
    """Fold a keyword; raises Invalid if it can't be searched for.

    The result has 1 to `MAX_KEYWORD * MAX_GROWTH` code points. Spaces count like any other character.
    """
    if not keyword:
        raise Invalid("the keyword is empty", "enter at least one character")
    if len(keyword) > MAX_KEYWORD:
        raise Invalid(
            f"the keyword has {len(keyword):,} characters; at most {MAX_KEYWORD} are allowed",
            "search for a part of it",
        )
    if "\0" in keyword:
        raise Invalid("the keyword contains a NUL character, which no message can contain")
    try:
        keyword.encode()
    except UnicodeEncodeError as error:
        surrogate = ord(keyword[error.start])
        raise Invalid(
            f"the keyword is not valid Unicode: character {error.start + 1} is a lone surrogate"
            f" (U+{surrogate:04X})",
            "encode it in UTF-8",
        ) from None
    folded = fold(keyword)
    if not folded:
        raise Invalid(
            "the keyword consists only of Arabic marks or tatweel, which a search ignores",
            "add a letter to it",
        )
    return folded


def highlight(text: str, keyword: str) -> list[tuple[int, int]]:
    """The ranges in which a text contains a keyword: `[start, end)` in code points of the original text.

    Occurrences in the folded text are taken from left to right and do not overlap. Each becomes the range of
    the original characters that it comes from, whole ones: `f` in `ﬁ` is all of `ﬁ`. Ranges that share a
    character are merged; adjacent ones are not (`a` in `aa` gives two). They are sorted and never empty.

    The list is empty exactly if `fold(keyword)` is empty or not in `fold(text)`. The text of a range folds to
    one that contains the folded keyword. A dropped mark belongs to the range of its letter: `م` in `مَ`
    covers both. A tatweel is a separate letter, covered only between others.
    """
    return highlight_folded(text, fold(keyword))


def highlight_folded(text: str, wanted: str) -> list[tuple[int, int]]:
    """As `highlight`, of a keyword that is folded."""
    return highlight_in(text, fold(text), wanted)


def highlight_in(text: str, folded: str, wanted: str) -> list[tuple[int, int]]:
    """As `highlight`, of a text and a keyword that are folded, too."""
    found = list(_occurrences(folded, wanted)) if wanted else []
    if not found or _folds_one_to_one(text):
        return [(at, at + len(wanted)) for at in found]

    origins = _origins(text)
    ranges: list[tuple[int, int]] = []
    for at in found:
        start, end = origins[at][0], origins[at + len(wanted) - 1][1]
        if ranges and start < ranges[-1][1]:
            start, _ = ranges.pop()
        ranges.append((start, end))
    return ranges


def clusters(text: str) -> Iterator[tuple[int, int]]:
    """Split a text where normalization cannot combine the two sides: `[start, end)` of each cluster.

    A cluster is a character with everything after it that may combine with it. Folding the clusters one by
    one and joining the results is the same as folding the text.
    """
    # Each distinct character is examined only once: texts are long, alphabets short.
    joining = {char for char in set(text) if _may_join(char)}
    start = 0
    for at in range(1, len(text)):
        if text[at] not in joining or not _joins(text[at - 1], text[at]):
            yield start, at
            start = at
    if text:
        yield start, len(text)


def _occurrences(folded: str, wanted: str) -> Iterator[int]:
    at = folded.find(wanted)
    while at >= 0:
        yield at
        at = folded.find(wanted, at + len(wanted))


def _folds_one_to_one(text: str) -> bool:
    """Whether a text and its folded form certainly have the same offsets, as most texts do."""
    return text.isascii() or all(map(_is_plain, set(text)))


@lru_cache(maxsize=16_384)
def _is_plain(char: str) -> bool:
    return not _may_join(char) and len(fold(char)) == 1


def _origins(text: str) -> list[tuple[int, int]]:
    """For each code point of the folded text, the range of the original that it comes from."""
    origins: list[tuple[int, int]] = []
    for start, end in clusters(text):
        cluster = text[start:end]
        pieces = _pieces(cluster) if len(cluster) <= _MAX_CLUSTER else _whole(cluster)
        for first, last, width in pieces:
            origins.extend([(start + first, start + last)] * width)
    return origins


def _whole(cluster: str) -> tuple[tuple[int, int, int], ...]:
    return ((0, len(cluster), len(fold(cluster))),)


@lru_cache(maxsize=16_384)
def _pieces(cluster: str) -> tuple[tuple[int, int, int], ...]:
    """The finest split of a cluster whose pieces, folded separately, give the folded cluster.

    Each piece is `(start, end, length of its fold)`. The virama of `क्` is separate from its letter, an acute
    that composes with an `e` is not. A piece that folds to nothing belongs to the one before it.
    """
    if len(cluster) == 1:
        return _whole(cluster)
    pieces: list[tuple[int, int, int]] = []
    start = 0
    rest = fold(cluster)
    for cut in range(1, len(cluster) + 1):
        head, tail = fold(cluster[start:cut]), fold(cluster[cut:])
        if head + tail != rest:
            continue
        if pieces and not head:
            first, _, width = pieces[-1]
            pieces[-1] = (first, cut, width)
        else:
            pieces.append((start, cut, len(head)))
        start, rest = cut, tail
    return tuple(pieces)


@lru_cache(maxsize=16_384)
def _may_join(char: str) -> bool:
    """Whether this character combines with any character that it follows."""
    if char < "\u0300":  # the first mark
        return False
    return _is_mark(char) or _decomposition(char)[0] in _composing_letters()


@lru_cache(maxsize=16_384)
def _joins(before: str, char: str) -> bool:
    """Whether normalization may treat two adjacent characters as a unit.

    It sorts and composes marks behind the letter they follow, and composes some letters with the letter right
    before them. No other rule concerns two characters: case folding and the Arabic rules examine single ones.
    (U+0345 is a mark until case folding makes it a letter, ι. Marks that the second normalization composes
    with that ι are in the same cluster.)
    """
    if _is_mark(char):
        return True
    return _decomposition(before)[-1] in _composing_letters().get(_decomposition(char)[0], ())


@lru_cache(maxsize=16_384)
def _is_mark(char: str) -> bool:
    """Whether the character, or its decomposition, attaches to the character before it."""
    return _is_mark_uncached(char)


def _is_mark_uncached(char: str) -> bool:
    """As `_is_mark`, for a walk over all characters, which would leave nothing else in the caches."""
    return combining(normalize("NFKD", char)[0]) > 0


@cache
def _composing_letters() -> dict[str, set[str]]:
    """The letters that normalization composes with the letter before them, each with those letters.

    The keys are Hangul's vowels and tails and the second halves of Indic vowels. The values are the last
    letters of the first halves' decompositions.
    """
    letters: dict[str, set[str]] = {}
    # All pairs are in the first two planes; decompositions in the others are of single ideographs.
    for code in range(0x20000):
        # "0B47 0B3E"; a decomposition with a tag in angle brackets is never composed.
        parts = decomposition(chr(code)).split()
        if len(parts) == 2 and parts[0][0] != "<":
            first, second = (chr(int(part, 16)) for part in parts)
            if not combining(second):
                letters.setdefault(second, set()).add(normalize("NFD", first)[-1])
    # Hangul is composed by arithmetic and has no table entries: lead + vowel, vowel + tail.
    leads = {chr(code) for code in range(0x1100, 0x1113)}
    vowels = {chr(code) for code in range(0x1161, 0x1176)}
    tails = {chr(code) for code in range(0x11A8, 0x11C3)}
    return letters | dict.fromkeys(vowels, leads) | dict.fromkeys(tails, vowels)


@lru_cache(maxsize=16_384)
def _decomposition(char: str) -> str:
    return normalize("NFKD", char)


def _has_many_marks(text: str) -> bool:
    """Whether the text may have `2 * _MANY_MARKS` marks in a row: then one of these slices is all marks."""
    return any(
        all(map(_is_mark, text[at : at + _MANY_MARKS]))
        for at in range(0, len(text) - _MANY_MARKS + 1, _MANY_MARKS)
    )


@cache
def _many_marks() -> re.Pattern[str]:
    """Matches `_MANY_MARKS` marks or more in a row, as many as there are."""
    # All marks are in the first two planes.
    marks = "".join(re.escape(char) for char in map(chr, range(0x20000)) if _is_mark_uncached(char))
    return re.compile(f"[{marks}]{{{_MANY_MARKS},}}")


def _sorted_marks(run: re.Match[str]) -> str:
    """A run of marks in their canonical order, in time n log n. With it, the text has the same NFKC.

    Only the run is decomposed: the characters around it may fold to many times their number.
    """
    return "".join(sorted("".join(map(_decomposition, run.group())), key=combining))
