"""Folding and highlighting, by rules and compared with naive oracles."""

import unicodedata
from itertools import pairwise
from math import inf
from time import thread_time
from unicodedata import combining

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from backend.domain.errors import Invalid
from backend.domain.folding import MAX_GROWTH, MAX_KEYWORD, clusters, fold, fold_keyword, highlight
from loadtest.corpus.conversations import conversations
from tests.support.search_cases import folded as naive_fold

FATHA, SHADDA, HAMZA_ABOVE = "\u064e", "\u0651", "\u0654"
ACUTE, DOT_BELOW = "\u0301", "\u0323"
ZWJ, VS16 = "\u200d", "\ufe0f"
GIRL, BOY, WOMAN = "\U0001f467", "\U0001f466", "\U0001f469"

ASSIGNED = [
    chr(code)
    for code in range(0x110000)
    if unicodedata.category(chr(code)) not in {"Cn", "Co", "Cs"}
]

# ------------------------------------------------------------------------------- fold, by rule


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("Hello, World! 100% [A_B]\n\t", "hello, world! 100% [a_b]\n\t"),
        ("Ünïcödé", "ünïcödé"),
        (f"e{ACUTE}", "é"),
        ("ﬁ ﬃ", "fi ffi"),
        ("Straße STRASSE ẞ", "strasse strasse ss"),
        ("İI", "i\u0307i"),
        ("ı", "ı"),
        ("ΣΑΣ ς", "σασ σ"),
        ("ᾳ α\u0345", "αι αι"),
        ("ＡＢＣ　１％", "abc 1%"),
        ("ｶﾞﾊﾟ", "ガパ"),
        ("\u1112\u1161\u11ab", "한"),
        ("ㅎㅏㄴ", "하\u1102"),
        ("ПРИВЕТ Ё", "привет ё"),
        ("שָׁ", "\u05e9\u05b8\u05c1"),
        ("नमस्ते \u0958", "नमस्ते \u0915\u093c"),
        ("น้ำ", "น\u0e49\u0e4d\u0e32"),
        ("你好，世界。", "你好,世界。"),
        (f"{WOMAN}{ZWJ}{GIRL} ❤{VS16}", f"{WOMAN}{ZWJ}{GIRL} ❤{VS16}"),
        ("آأإٱ", "اااا"),
        ("ىیي", "ييي"),
        ("کك", "كك"),
        ("ةؤئءه", "ةؤئءه"),
        (f"ا{HAMZA_ABOVE}و{HAMZA_ABOVE}ي{HAMZA_ABOVE}ك{HAMZA_ABOVE}", "اؤئك"),
        (f"ع{FATHA}ل{SHADDA}ــم", "علم"),
        ("ﻻ ﷺ", "لا صلي الله عليه وسلم"),
        ("ﹷ", ""),
        ("ہھے گچپژ", "ہھے گچپژ"),
    ],
)
def test_fold_of_examples(text: str, expected: str) -> None:
    assert fold(text) == expected


def test_fold_drops_or_changes_exactly_these_arabic_characters() -> None:
    block = [chr(code) for code in range(0x0600, 0x0700)]
    normal = [char for char in block if not unicodedata.decomposition(char).startswith("<")]

    dropped = " ".join(f"{ord(char):04X}" for char in normal if fold(char) == "")
    changed = {char: fold(char) for char in normal if fold(char) not in {"", char}}

    assert dropped == (
        "0610 0611 0612 0613 0614 0615 0616 0617 0618 0619 061A 0640"
        " 064B 064C 064D 064E 064F 0650 0651 0652 0653 0654 0655 0656 0657 0658 0659 065A 065B"
        " 065C 065D 065E 065F 0670 06D6 06D7 06D8 06D9 06DA 06DB 06DC 06DF 06E0 06E1 06E2 06E3"
        " 06E4 06E7 06E8 06EA 06EB 06EC 06ED"
    )
    assert changed == dict(zip("آأإٱىیک", "ااااييك", strict=True))


def test_fold_of_every_character_follows_the_contract() -> None:
    """Each character is folded alone, and between two characters with which it could combine."""
    for char in ASSIGNED:
        assert fold(char) == naive_fold(char), ascii(char)
        assert len(fold(char)) <= MAX_GROWTH, ascii(char)
        text = f"e{char}{ACUTE}"
        assert fold(text) == naive_fold(text), ascii(char)


def test_max_growth_is_the_growth_of_a_real_character() -> None:
    assert len(fold("\ufdfa")) == MAX_GROWTH


def test_fold_does_not_normalise_again_after_dropping_characters() -> None:
    """The contract says so for texts and keywords; folding a second time may therefore compose characters."""
    blocked = f"e\u0610{ACUTE}"

    assert fold(blocked) == f"e{ACUTE}"
    assert fold(fold(blocked)) == "é"
    assert fold(f"e\u0640{ACUTE}") == f"e{ACUTE}"
    for char in ASSIGNED:
        assert fold(fold(char)) == fold(char), ascii(char)


@pytest.mark.parametrize(
    "unit", [f"{ACUTE}\u0316", "\u0f73", f"\u0345{ACUTE}", FATHA + SHADDA + ACUTE, "ㅠ", "ﷺ"]
)
def test_folding_and_highlighting_take_linear_time_for_hostile_texts(unit: str) -> None:
    """Python's own `normalize` takes quadratic time for most of these texts."""

    def seconds(length: int) -> float:
        text = "e" + unit * (length // len(unit))
        started = thread_time()  # processor time, which other processes do not affect
        highlight(text, fold(text)[:1])
        return thread_time() - started

    # The minimum of several: other processes only add time, for example by using the processor's cache.
    short, long = inf, inf
    for turn in range(30):
        short = min(short, *(seconds(9_999 // 8) for _ in range(4)))
        long = min(long, seconds(9_999))
        if turn >= 2 and long < 20 * short:
            return
    pytest.fail(f"{long / short:.0f} times as long: 8 is in proportion, 64 the square")


def test_many_marks_do_not_make_the_rest_of_a_text_dear() -> None:
    """Only the marks are sorted here. The other characters of this text fold to eighteen times as many."""

    def seconds(text: str) -> float:
        started = thread_time()
        fold(text)
        return thread_time() - started

    letters, marks = "\ufdfa" * 9000, "\u0344" * 1000
    fold(letters + marks)  # fills the caches
    plain, marked = inf, inf
    for turn in range(30):
        plain = min(plain, seconds(letters + marks[0]))  # one mark has all of it normalized
        marked = min(marked, seconds(letters + marks))
        if turn >= 2 and marked < 2 * plain:
            return
    pytest.fail(f"{marked / plain:.1f} times as long")


def test_each_mark_decomposes_to_marks() -> None:
    """A run of marks is sorted as a whole."""
    for char in ASSIGNED:
        decomposed = unicodedata.normalize("NFKD", char)
        if combining(decomposed[0]):
            assert ord(char) < 0x20000
            assert all(map(combining, decomposed)), ascii(char)


@pytest.mark.parametrize("unit", [f"{ACUTE}\u0316", "\u0f73", f"\u0345{ACUTE}", f"{FATHA}{ACUTE}"])
@pytest.mark.parametrize("times", [31, 32, 63, 64, 65, 127, 128, 200])
def test_fold_of_long_runs_of_marks_follows_the_contract(unit: str, times: int) -> None:
    for text in (
        f"é{unit * times}",
        f"Ａ {unit * times}ﬁ",
        unit * times,
        f"{'ß' * 40}{unit * times}",
    ):
        assert fold(text) == naive_fold(text)
        assert fold("".join(text[s:e] for s, e in clusters(text))) == naive_fold(text)


def test_fold_of_real_conversations_follows_the_contract() -> None:
    for conversation in conversations():
        for line in conversation.lines:
            assert fold(line) == naive_fold(line)


# ------------------------------------------------------------------------------- fold_keyword


@pytest.mark.parametrize("keyword", ["a", " ", "%", "😀", "ß", "x" * MAX_KEYWORD, "\ufdfa" * 256])
def test_fold_keyword_folds_valid_keywords(keyword: str) -> None:
    assert fold_keyword(keyword) == naive_fold(keyword)


@pytest.mark.parametrize(
    ("keyword", "says"),
    [
        ("", "is empty"),
        ("x" * 257, "has 257 characters; at most 256"),
        ("a\0b", "NUL"),
        ("ab\udcff", r"character 3 is a lone surrogate \(U\+DCFF\)"),
        ("ـ" + FATHA, "only of Arabic marks or tatweel"),
    ],
)
def test_fold_keyword_rejects_invalid_keywords(keyword: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        fold_keyword(keyword)


# ------------------------------------------------------------------------------- highlight


@pytest.mark.parametrize(
    ("text", "keyword", "expected"),
    [
        # Latin, and characters that are not letters
        ("Hello, hello", "hello", [(0, 5), (7, 12)]),
        ("hello", "x", []),
        ("", "x", []),
        ("hello", "", []),
        ("hello", "ـ", []),
        ("aaaa", "a", [(0, 1), (1, 2), (2, 3), (3, 4)]),
        ("aaaaa", "aa", [(0, 2), (2, 4)]),
        ("50% of a_b", "%", [(2, 3)]),
        ("one\ntwo", "E\nT", [(2, 5)]),
        ("naïve café", "CAFÉ", [(6, 10)]),
        # composed and decomposed
        (f"cafe{ACUTE}!", "café", [(0, 5)]),
        (f"cafe{ACUTE}!", "é!", [(3, 6)]),
        ("café!", f"e{ACUTE}", [(3, 4)]),
        (f"e{DOT_BELOW}{ACUTE}", f"ẹ{ACUTE}", [(0, 3)]),
        (f"x{DOT_BELOW}y", "x", [(0, 1)]),
        (f"x{DOT_BELOW}y", DOT_BELOW, [(1, 2)]),
        (ACUTE + "a", "a", [(1, 2)]),
        # one character that becomes several
        ("ﬁnd", "f", [(0, 1)]),
        ("ﬁnd", "i", [(0, 1)]),
        ("ﬁnd", "in", [(0, 2)]),
        ("oﬃce", "ff", [(1, 2)]),
        ("oﬃce", "f", [(1, 2)]),
        ("ﬀﬀ", "f", [(0, 1), (1, 2)]),
        ("ﬀﬀ", "fff", [(0, 2)]),
        ("Straße", "ss", [(4, 5)]),
        ("Straße", "s", [(0, 1), (4, 5)]),
        ("sßs", "ss", [(0, 3)]),
        ("İzmir", "i", [(0, 1), (3, 4)]),
        ("İzmir", "z", [(1, 2)]),
        ("½ ½", "1", [(0, 1), (2, 3)]),
        ("5 µm", "μ", [(2, 3)]),
        ("a…b", "..", [(1, 2)]),
        # Greek
        ("ΟΔΟΣ", "ς", [(3, 4)]),
        ("αᾳα", "ι", [(1, 2)]),
        ("αα\u0345α", "ι", [(2, 3)]),
        ("αα\u0345α", "αι", [(1, 3)]),
        (f"α\u0345{ACUTE}", "ι", [(0, 3)]),
        # Arabic, Persian, Urdu
        (f"م{FATHA}ر", "م", [(0, 2)]),
        (f"م{FATHA}{SHADDA}ر", "مر", [(0, 4)]),
        ("قال: مَرْحَبًا!", "مرحبا", [(5, 14)]),
        ("مرحبا", "مَرْحَبًا", [(0, 5)]),
        ("ـسـلامـ", "سلام", [(1, 6)]),
        ("ـسـلامـ", "ل", [(3, 4)]),
        ("على", "علي", [(0, 3)]),
        ("أحمد إلى آمن", "ا", [(0, 1), (5, 6), (9, 10)]),
        (f"ا{HAMZA_ABOVE}حمد", "ا", [(0, 2)]),
        (f"ي{HAMZA_ABOVE}", "ئ", [(0, 2)]),
        (f"ي{FATHA}{HAMZA_ABOVE}ب", "ئ", [(0, 3)]),
        ("ﻻ", "ا", [(0, 1)]),
        ("سﻻم", "لا", [(1, 2)]),
        ("ﷺ", "ل", [(0, 1)]),
        ("aﹷb", "ab", [(0, 3)]),
        ("aﹷb", "b", [(2, 3)]),
        ("یک کتاب", "ك", [(1, 2), (3, 4)]),
        ("می\u200cروم", "رو", [(3, 5)]),
        ("آپ کیسے ہیں", "كيسے", [(3, 7)]),
        # Hebrew, Hindi, Thai: marks are not dropped, so a keyword without them differs
        ("\u05e9\u05b8\u05c1לום", "ש", [(0, 1)]),
        ("\u05e9\u05c1\u05b8לום", "ש", [(0, 1)]),
        ("\u05e9\u05b8\u05c1לום", "\u05b8", [(1, 2)]),
        ("שלום", "לו", [(1, 3)]),
        ("क्या", "क", [(0, 1)]),
        ("क्या", "या", [(2, 4)]),
        ("\u0915\u093cा", "\u0958", [(0, 2)]),
        ("\u0995\u09c7\u09be", "\u09cb", [(1, 3)]),
        ("\u0995\u09be", "\u0995", [(0, 1)]),
        ("ข้าว", "ข", [(0, 1)]),
        ("น้ำ", "น้", [(0, 2)]),
        ("น้ำ", "\u0e32", [(2, 3)]),
        # Chinese, Japanese, Korean
        ("你好，你好", "你好", [(0, 2), (3, 5)]),
        ("你好，你", ",", [(2, 3)]),
        ("ｶﾞｷﾞ", "ガ", [(0, 2)]),
        ("ｶﾞｷﾞ", "ギ", [(2, 4)]),
        ("か\u3099き", "がき", [(0, 3)]),
        ("㌔", "ロ", [(0, 1)]),
        ("안녕하세요", "하세", [(2, 4)]),
        ("\u1112\u1161\u11ab국", "한", [(0, 3)]),
        ("하\u11ab국", "국", [(2, 3)]),
        ("ㅎㅏㄴ", "하", [(0, 2)]),
        ("ㅠㅠ", "\u1172", [(0, 1), (1, 2)]),
        # emoji
        (f"{WOMAN}{ZWJ}{GIRL}{ZWJ}{BOY}", GIRL, [(2, 3)]),
        (f"I ❤{VS16} it", f"❤{VS16}", [(2, 4)]),
        (f"I ❤{VS16} it", "❤", [(2, 3)]),
        ("\U0001f44b\U0001f3fd!", "\U0001f44b", [(0, 1)]),
        ("\U0001f1ea\U0001f1ec", "\U0001f1ec", [(1, 2)]),
        ("😀ß😀", "😀", [(0, 1), (2, 3)]),
    ],
)
def test_highlight_of_examples(text: str, keyword: str, expected: list[tuple[int, int]]) -> None:
    assert highlight(text, keyword) == expected


@pytest.mark.parametrize("marks", [30, 31, 200])
def test_a_letter_with_more_than_thirty_marks_is_highlighted_with_all_of_them(marks: int) -> None:
    text = "x" + DOT_BELOW * marks + "y"

    assert highlight(text, "y") == [(marks + 1, marks + 2)]
    assert highlight(text, "x") == [(0, 1 if marks <= 30 else marks + 1)]
    assert len(highlight(text, DOT_BELOW)) == (marks if marks <= 30 else 1)


def test_repeated_half_syllables_are_highlighted_one_by_one() -> None:
    """They could combine with a neighbour, but do not. Koreans type tears by repeating this one."""
    assert highlight("ㅠ" * 100, "ㅠ") == [(at, at + 1) for at in range(100)]


# ------------------------------------------------------------------------------- clusters


def test_a_letter_composes_only_with_its_direct_neighbour() -> None:
    """This is why `clusters` looks at pairs only: no composition of two letters has marks between them."""
    for char in ASSIGNED:
        parts = unicodedata.decomposition(char).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            first, second = (chr(int(part, 16)) for part in parts)
            assert ord(char) < 0x20000, "the search for pairs ends before"
            if not combining(second):
                assert not any(map(combining, unicodedata.normalize("NFD", first)))


def test_clusters_are_cut_only_where_both_sides_fold_independently() -> None:
    """Every character is tried after each kind of letter with which it could combine."""
    before = ["e", "α", "ا", "ي", "\u09c7", "\u0bc6", "\u0dd9", "\u1025", "\u1100", "가", "カ"]
    for char in ASSIGNED:
        if unicodedata.name(char, "").startswith(("CJK UNIFIED", "HANGUL SYLLABLE", "TANGUT")):
            continue  # two thirds of all characters, which behave alike
        for letter in before:
            text = letter + char
            parts = [text[start:end] for start, end in clusters(text)]
            assert "".join(parts) == text
            if len(parts) > 1:
                assert naive_fold(letter) + naive_fold(char) == naive_fold(text), ascii(text)


# ------------------------------------------------------------------------------- properties

# Texts are drawn from few characters, because random characters would never combine.
FAMILIES = [
    "aeıiIİßſsẞﬁﬀfſt ",
    "eé" + ACUTE + DOT_BELOW + "\u0308\u0344\u0340\u0327ḉç",
    "αάᾳᾴΆΣςσΐ\u0345\u0301\u0308\u0342ϓ",
    "امـلﻻأآيىیئءﷺﹷﹰﳲ" + FATHA + SHADDA + HAMZA_ABOVE + "\u0653\u0655\u0610\u06e5\u08f0",
    "e" + ACUTE + "\u0610\u0640\u065f\u0316" + FATHA,
    "שׁשּׁ\u05e9\u05b0\u05b8\u05c1\u05bc",
    "क\u093c\u0958\u094dषि\u0995\u09c7\u09be\u09cb\u09d7\u0bc6\u0bbe\u0bca\u0dd9\u0dcf\u0dca\u0ddd",
    "กน\u0e33\u0e49\u0e4d\u0e32\u0eb3\u0f71\u0f72\u0f73\u0f80\u0f81",
    "ｶﾞﾊﾟカガか\u3099\u309a゛㌔",
    "\u1100\u1161\u11a8가각\u11a7\u1160ㅎㅏﾡￂ\U00011131\U00011127",
    WOMAN + GIRL + ZWJ + VS16 + "\u20e3#1\U0001f1ea\U0001f1ec\U0001f3fd",
]
combining_texts = st.lists(st.sampled_from(FAMILIES), min_size=1, max_size=2).flatmap(
    lambda families: st.text(st.sampled_from("".join(families)), min_size=1, max_size=9)
)
texts = combining_texts | st.text(max_size=12)


@st.composite
def texts_and_keywords(draw: st.DrawFn) -> tuple[str, str]:
    """In most cases a text and a part of it, folded or not, so that there is something to find."""
    text = draw(texts)
    start = draw(st.integers(0, len(text)))
    length = draw(st.integers(1, 4))
    part = text[start : start + length]
    return text, draw(
        st.sampled_from([part, part.upper(), naive_fold(text)[start : start + length]]) | texts
    )


def brute_force(text: str, keyword: str) -> list[tuple[int, int]]:
    """Highlighting that tries every cut of the text, as the docstring of `highlight` defines it."""
    whole, wanted = naive_fold(text), naive_fold(keyword)
    if not wanted:
        return []
    # Where the text can be cut, and how much of the folded text lies before the cut.
    cuts = {
        cut: len(naive_fold(text[:cut]))
        for cut in range(len(text) + 1)
        if naive_fold(text[:cut]) + naive_fold(text[cut:]) == whole
    }
    ranges: list[tuple[int, int]] = []
    found = whole.find(wanted)
    while found >= 0:
        found_end = found + len(wanted)
        start = max(cut for cut, before in cuts.items() if before <= found)
        end = min(cut for cut, before in cuts.items() if before >= found_end)
        # A dropped mark belongs to its letter.
        while end < len(text) and combining(text[end]) and cuts.get(end + 1) == cuts[end]:
            end += 1
        if ranges and ranges[-1][1] > start:
            start = ranges.pop()[0]
        ranges.append((start, end))
        found = whole.find(wanted, found_end)
    return ranges


properties = settings(max_examples=500, deadline=None)


@properties
@given(texts)
def test_fold_of_random_texts_follows_the_contract(text: str) -> None:
    assert fold(text) == naive_fold(text)
    assert len(fold(text)) <= MAX_GROWTH * len(text)


@properties
@given(texts)
def test_fold_is_idempotent_where_it_drops_nothing(text: str) -> None:
    normal = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    assume(len(fold(text)) == len(normal))

    assert fold(fold(text)) == fold(text)


@properties
@given(texts)
def test_the_folded_clusters_together_are_the_folded_text(text: str) -> None:
    cut = list(clusters(text))

    assert "".join(text[start:end] for start, end in cut) == text
    assert all(start < end for start, end in cut)
    assert "".join(naive_fold(text[start:end]) for start, end in cut) == naive_fold(text)


@properties
@given(texts_and_keywords())
def test_each_highlight_contains_the_keyword_and_none_overlap(both: tuple[str, str]) -> None:
    text, keyword = both
    wanted = naive_fold(keyword)
    ranges = highlight(text, keyword)

    assert bool(ranges) == (wanted != "" and wanted in naive_fold(text))
    for start, end in ranges:
        assert 0 <= start < end <= len(text)
        assert wanted in naive_fold(text[start:end])
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))


@settings(properties, max_examples=1_000)
@given(texts_and_keywords())
def test_highlight_agrees_with_brute_force_on_random_texts(both: tuple[str, str]) -> None:
    text, keyword = both

    assert highlight(text, keyword) == brute_force(text, keyword)


def test_highlight_agrees_with_brute_force_on_real_conversations() -> None:
    """The keywords are one and two letters from the middle of lines, in all languages and topics."""
    for conversation in conversations():
        for line in sorted(conversation.lines, key=len)[-20:-17]:
            middle = len(line) // 2
            for keyword in (line[middle], line[middle : middle + 2]):
                short = line[max(0, middle - 40) : middle + 40]
                assert highlight(short, keyword) == brute_force(short, keyword), (short, keyword)
