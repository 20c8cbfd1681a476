"""Search cases that every way of searching must answer in the same way, and an oracle for all other searches.

Each case is one chat. Its texts are the messages 1, 2, 3 …, and `matches` are the indices (from 0) of the
texts that a search for the keyword must return, derived by hand from the contract. Characters that look alike
or are invisible are written as escapes or by name.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SearchCase:
    """One chat with its texts, one keyword, and the indices of the texts that contain it."""

    name: str
    texts: list[str]
    keyword: str
    matches: list[int]


def oracle(texts: Sequence[str], keyword: str) -> list[int]:
    """The contract's section on searching, literally and without regard to speed.

    It shares no code with the program on purpose.
    """
    return [index for index, text in enumerate(texts) if folded(keyword) in folded(text)]


def folded(text: str) -> str:
    """NFKC, case folding, NFKC; then the Arabic rules."""
    text = unicodedata.normalize("NFKC", text)
    text = text.casefold()
    text = unicodedata.normalize("NFKC", text)
    kept = [char for char in text if not _is_dropped(ord(char))]
    return "".join(_BECOMES.get(char, char) for char in kept)


_BECOMES = {
    "\N{ARABIC LETTER ALEF WITH MADDA ABOVE}": "\N{ARABIC LETTER ALEF}",
    "\N{ARABIC LETTER ALEF WITH HAMZA ABOVE}": "\N{ARABIC LETTER ALEF}",
    "\N{ARABIC LETTER ALEF WITH HAMZA BELOW}": "\N{ARABIC LETTER ALEF}",
    "\N{ARABIC LETTER ALEF WASLA}": "\N{ARABIC LETTER ALEF}",
    "\N{ARABIC LETTER ALEF MAKSURA}": "\N{ARABIC LETTER YEH}",
    "\N{ARABIC LETTER FARSI YEH}": "\N{ARABIC LETTER YEH}",
    "\N{ARABIC LETTER KEHEH}": "\N{ARABIC LETTER KAF}",
}


def _is_dropped(code: int) -> bool:
    return (
        code == 0x0640
        or 0x0610 <= code <= 0x061A
        or 0x064B <= code <= 0x065F
        or code == 0x0670
        or 0x06D6 <= code <= 0x06DC
        or 0x06DF <= code <= 0x06E4
        or 0x06E7 <= code <= 0x06E8
        or 0x06EA <= code <= 0x06ED
    )


ACUTE = "\N{COMBINING ACUTE ACCENT}"
DIAERESIS = "\N{COMBINING DIAERESIS}"
DOT_ABOVE = "\N{COMBINING DOT ABOVE}"
CEDILLA = "\N{COMBINING CEDILLA}"
ZWJ = "\N{ZERO WIDTH JOINER}"
ZWNJ = "\N{ZERO WIDTH NON-JOINER}"
VS16 = "\N{VARIATION SELECTOR-16}"
NBSP = "\N{NO-BREAK SPACE}"

TATWEEL = "\N{ARABIC TATWEEL}"
FATHA = "\N{ARABIC FATHA}"
KASRA = "\N{ARABIC KASRA}"
SUKUN = "\N{ARABIC SUKUN}"
SHADDA = "\N{ARABIC SHADDA}"
FATHATAN = "\N{ARABIC FATHATAN}"
HAMZA_ABOVE = "\N{ARABIC HAMZA ABOVE}"
SMALL_ALEF = "\N{ARABIC LETTER SUPERSCRIPT ALEF}"

WOMAN, LAPTOP, GIRL, BOY = "\U0001f469", "\U0001f4bb", "\U0001f467", "\U0001f466"
WAVE, MEDIUM_SKIN = "\U0001f44b", "\U0001f3fd"
FAMILY = ZWJ.join([WOMAN, WOMAN, GIRL, BOY])
PROGRAMMER = ZWJ.join([WOMAN, LAPTOP])
EGYPT, GERMANY = "\U0001f1ea\U0001f1ec", "\U0001f1e9\U0001f1ea"

_PLAIN = [
    SearchCase("the whole text", ["hello", "hello there", "help"], "hello", [0, 1]),
    SearchCase("the middle of a word", ["unbelievable", "to believe", "belie"], "liev", [0, 1]),
    SearchCase("the end of a word", ["searching", "sing", "singer"], "ing", [0, 1, 2]),
    SearchCase("nothing found", ["one", "two"], "three", []),
    SearchCase("longer than the text", ["ab", "abc"], "abc", [1]),
    SearchCase("capitals in the text", ["HELLO", "Hello", "hElLo", "jello"], "hello", [0, 1, 2]),
    SearchCase("capitals in the keyword", ["hello", "Hello"], "HELLO", [0, 1]),
    SearchCase("one letter", ["a", "A", "bcd", "xyzA"], "a", [0, 1, 3]),
    SearchCase("two letters", ["ab", "ba", "xAbx", "a b", "aab"], "ab", [0, 2, 4]),
    SearchCase("three letters", ["abc", "ab c", "xABCx", "acb"], "abc", [0, 2]),
    SearchCase("two letters across a word border", ["ab cd", "abcd", "b  c"], "b c", [0]),
    SearchCase("two words with a space", ["good day", "goodday", "good  day"], "good day", [0]),
    SearchCase("words in another order", ["day good", "good day"], "good day", [1]),
    SearchCase("a leading space", ["a cat", "cat", "concat", "\tcat"], " cat", [0]),
    SearchCase("a trailing space", ["cat ", "cat", "cat nap", "cat\n"], "cat ", [0, 2]),
    SearchCase("one space", ["a b", "ab", " ", "a\tb"], " ", [0, 2]),
    SearchCase("two spaces", ["a  b", "a b", "a   b"], "  ", [0, 2]),
    SearchCase("a digit", ["room 7", "room 17", "room 8"], "7", [0, 1]),
    SearchCase("a number inside a number", ["12345", "1234", "2 3 4"], "234", [0, 1]),
    SearchCase("a repeated letter", ["aaa", "aa", "a a", "baab"], "aa", [0, 1, 3]),
    SearchCase("a stop word", ["the end", "to be or not", "other"], "the", [0, 2]),
    SearchCase("an inflected word is another", ["runs", "running", "ran"], "runs", [0]),
    SearchCase("a misspelling is another word", ["receive", "recieve"], "recieve", [1]),
    SearchCase("a newline in the text", ["one\ntwo", "one two", "onetwo"], "one\ntwo", [0]),
    SearchCase("over the lines of a text", ["first\nsecond", "second"], "second", [0, 1]),
    SearchCase("a tab in the text", ["a\tb", "a b"], "\t", [0]),
    SearchCase("a carriage return", ["a\r\nb", "a\nb"], "\r\n", [0]),
    SearchCase("a line separator", ["a\u2028b", "a\nb", "ab"], "\u2028", [0]),
    SearchCase("a control character", ["a\x01b", "ab"], "a\x01b", [0]),
    SearchCase("the longest keyword", ["x" * 256, "x" * 255, "y" + "x" * 300], "x" * 256, [0, 2]),
    SearchCase("the end of the longest text", ["a" * 9_998 + "yz", "a" * 10_000], "yz", [0]),
    SearchCase("equal texts are each found", ["same", "same", "other", "same"], "same", [0, 1, 3]),
]

_OPERATORS = [
    SearchCase("percent", ["100% sure", "100 sure", "%"], "%", [0, 2]),
    SearchCase("percent between letters", ["a%b", "axb", "ab"], "a%b", [0]),
    SearchCase("underscore", ["snake_case", "snake case", "_"], "_", [0, 2]),
    SearchCase("underscore between letters", ["a_b", "axb", "a\\_b"], "a_b", [0]),
    SearchCase("asterisk", ["2*3", "23", "2**3"], "*", [0, 2]),
    SearchCase("asterisk between letters", ["a*b", "axxb", "ab"], "a*b", [0]),
    SearchCase("question mark", ["really?", "really", "?!"], "?", [0, 2]),
    SearchCase("question mark between letters", ["a?b", "axb", "ab"], "a?b", [0]),
    SearchCase("double quotes", ['he said "hi"', "he said hi", "“hi”"], '"hi"', [0]),
    SearchCase("one double quote", ['5" pipe', "5 pipe", "'"], '"', [0]),
    SearchCase("a single quote", ["it's", "its", "it’s"], "it's", [0]),
    SearchCase("SQL", ["'; DROP TABLE messages; --", "drop"], "'; drop table", [0]),
    SearchCase("a backslash", ["C:\\temp", "C:/temp", "C:temp"], "\\", [0]),
    SearchCase("a backslash before a percent", ["50\\%", "50%", "50\\"], "\\%", [0]),
    SearchCase("a backslash at the end", ["path\\", "path", "path\\to"], "path\\", [0, 2]),
    SearchCase("two backslashes", ["\\\\host", "\\host"], "\\\\", [0]),
    SearchCase("backslash n is no newline", ["a\\nb", "a\nb"], "\\n", [0]),
    SearchCase("AND", ["cats AND dogs", "cats, dogs", "sand"], "and", [0, 2]),
    SearchCase("OR between words", ["cats OR dogs", "cats", "dogs"], "cats OR dogs", [0]),
    SearchCase("NOT before a word", ["NOT me", "me", "not you"], "NOT me", [0]),
    SearchCase("plus and minus", ["+a -b", "a", "a -b"], "+a -b", [0]),
    SearchCase("a minus before a word", ["-spam", "spam", "ham"], "-spam", [0]),
    SearchCase("a hyphenated word", ["well-known", "well known", "wellknown"], "l-k", [0]),
    SearchCase("a dot is no wildcard", ["a.b", "axb"], "a.b", [0]),
    SearchCase("regular expression", ["^a[bc]+(d|e)$", "abd", "ace"], "^a[bc]+(d|e)$", [0]),
    SearchCase("dot star", ["say .* twice", "say anything twice"], ".*", [0]),
    SearchCase("a field name", ["text:hello", "hello"], "text:hello", [0]),
    SearchCase("braces and slashes", ['{"a": [1]}', "/a/", "a"], '{"a": [', [0]),
    SearchCase("a fuzzy search", ["roam~2", "foam", "roam"], "roam~", [0]),
    SearchCase("a boost", ["cat^4", "cat"], "cat^4", [0]),
    SearchCase("ampersand and pipe", ["a && b", "a || b", "a & b"], "&&", [0]),
    SearchCase("markup", ["<b>bold</b>", "&lt;b&gt;", "bold"], "<b>", [0]),
    SearchCase("a mark of highlighting", ["<em>x</em>", "x"], "em>", [0]),
    SearchCase("an address", ["see https://a.example/?q=1&r=%20", "a.example"], "?q=1&r=%20", [0]),
    SearchCase("a mail address", ["ann@example.org", "ann example org"], "n@e", [0]),
    SearchCase("a hashtag", ["#python", "python"], "#python", [0]),
    SearchCase("punctuation only", ["...", "..", "a ... b", "…"], "...", [0, 2, 3]),
    SearchCase("a format placeholder", ["%s and {0} and $1 and :x", "x"], "%s and {0} and $1", [0]),
]

_LATIN_AND_KIN = [
    SearchCase("sharp s is ss", ["Straße", "STRASSE", "strasse", "strase"], "strasse", [0, 1, 2]),
    SearchCase("sharp s in the keyword", ["STRASSE", "Straße", "Strase"], "straße", [0, 1]),
    SearchCase("capital sharp s", ["GRO\u1e9e", "groß", "gross"], "GROSS", [0, 1, 2]),
    SearchCase("one s finds sharp s", ["ß", "x"], "s", [0]),
    SearchCase("long s", ["\u017fein", "sein"], "SEIN", [0, 1]),
    SearchCase("accents matter", ["café", "cafe", "CAFÉ"], "café", [0, 2]),
    SearchCase("no accent in the keyword", ["cafe", "café"], "cafe", [0]),
    SearchCase("decomposed text", [f"cafe{ACUTE}", "café", "cafe"], "café", [0, 1]),
    SearchCase("decomposed keyword", ["café", f"CAFE{ACUTE}", "cafe"], f"cafe{ACUTE}", [0, 1]),
    SearchCase("an accent alone", [f"x{ACUTE}", f"e{ACUTE}", "é"], ACUTE, [0]),
    SearchCase(
        "the order of marks",
        [f"c{ACUTE}{CEDILLA}", f"c{CEDILLA}{ACUTE}", f"ç{ACUTE}", "\u1e09", "ć", "ç"],
        f"c{ACUTE}{CEDILLA}",
        [0, 1, 2, 3],
    ),
    SearchCase("umlauts", ["Müller", f"MU{DIAERESIS}LLER", "Mueller", "Muller"], "müller", [0, 1]),
    SearchCase("ligature in the text", ["\ufb01nd", "find", "fnd"], "find", [0, 1]),
    SearchCase("ligature in the keyword", ["o\ufb03ce", "office", "ofice"], "\ufb03", [0, 1]),
    SearchCase("a part of a ligature", ["\ufb03", "\ufb01", "\ufb00", "f"], "ff", [0, 2]),
    SearchCase("one letter of a ligature", ["\ufb01", "\ufb02"], "i", [0]),
    SearchCase("ae is one letter", ["Æsir", "æsir", "aesir"], "æ", [0, 1]),
    SearchCase("full width", ["Ｈｅｌｌｏ", "hello", "HELLO"], "hello", [0, 1, 2]),
    SearchCase(
        "full width in the keyword", ["abc 123", "ＡＢＣ　１２３"], "ＡＢＣ　１２３", [0, 1]
    ),
    SearchCase("full-width percent", ["100％", "100%", "100"], "%", [0, 1]),
    SearchCase("superscript", ["m²", "m2", "m³"], "m2", [0, 1]),
    SearchCase("circled and roman", ["①", "1", "Ⅰ", "ⅰ"], "1", [0, 1]),
    SearchCase("roman numeral", ["Ⅳ", "iv", "ⅳ", "4"], "IV", [0, 1, 2]),
    SearchCase("a fraction", ["½", "1\u20442", "1/2"], "1\u20442", [0, 1]),
    SearchCase("trade mark", ["Foo™", "footm", "foo"], "tm", [0, 1]),
    SearchCase("an ellipsis sign", ["wait…", "wait...", "wait"], "...", [0, 1]),
    SearchCase("no-break space", [f"a{NBSP}b", "a b", "ab"], "a b", [0, 1]),
    SearchCase("ideographic space", ["a\u3000b", "a b"], "a b", [0, 1]),
    SearchCase("a soft hyphen stays", ["co\u00adop", "coop"], "coop", [1]),
    SearchCase("a zero-width space stays", ["a\u200bb", "ab"], "ab", [1]),
    SearchCase("Turkish dotless i", ["ısı", "isi", "ISI"], "ısı", [0]),
    SearchCase("capital I is i everywhere", ["ISI", "isi", "ısı"], "isi", [0, 1]),
    SearchCase("Turkish capital dotted I", ["İzmir", f"i{DOT_ABOVE}zmir", "izmir"], "İ", [0, 1]),
    SearchCase("i is in İ, izmir is not", ["İzmir", "izmir", "IZMIR"], "izmir", [1, 2]),
    SearchCase("one i is in İ", ["İ", "I", "ı"], "i", [0, 1]),
    SearchCase("Dutch ij", ["\u0132sselmeer", "ijsselmeer", "ysselmeer"], "IJ", [0, 1]),
    SearchCase(
        "an angstrom sign", ["\u212b", "Å", "å", "A\N{COMBINING RING ABOVE}"], "å", [*range(4)]
    ),
    SearchCase("Kelvin sign", ["300 \u212a", "300 k", "300 K"], "k", [0, 1, 2]),
    SearchCase("Vietnamese", ["Tiếng Việt", "TIẾNG VIỆT", "tieng viet"], "tiếng việt", [0, 1]),
    SearchCase(
        "Yoruba below and above", ["ọ̀rọ̀", "o\u0300\u0323ro\u0300\u0323", "oro"], "ọ̀r", [0, 1]
    ),
    SearchCase("final sigma", ["ΟΔΟΣ", "οδος", "οδοσ", "οδο"], "οδοσ", [0, 1, 2]),
    SearchCase("final sigma in the keyword", ["σοφός", "ΣΟΦΌΣ", "σοφοσ"], "σοφός", [0, 1]),
    SearchCase("Greek accents matter", ["και", "καί", "ΚΑΙ"], "και", [0, 2]),
    SearchCase("micro sign is mu", ["5 µm", "5 μm", "5 ΜM", "5 um"], "μm", [0, 1, 2]),
    SearchCase("iota subscript", ["ᾳ", "αι", "ΑΙ", "\u03b1\u0345"], "αι", [0, 1, 2, 3]),
    SearchCase("Cyrillic", ["Привет, мир", "ПРИВЕТ", "привыкать"], "привет", [0, 1]),
    SearchCase("Cyrillic io and short i", ["ёж", f"е{DIAERESIS}ж", "еж", "ЁЖ"], "ёж", [0, 1, 3]),
    SearchCase("Ukrainian", ["їжак", f"І{DIAERESIS}ЖАК", "іжак"], "їжак", [0, 1]),
    SearchCase("Cyrillic a is no Latin a", ["\u0430", "a"], "a", [1]),
    SearchCase("Cherokee", ["\u13a0", "\uab70"], "\uab70", [0, 1]),
    SearchCase("Georgian capitals", ["\u1c90", "\u10d0"], "\u10d0", [0, 1]),
    SearchCase(
        "Deseret, beyond the first plane", ["\U00010400", "\U00010428"], "\U00010428", [0, 1]
    ),
    SearchCase("mathematical letters", ["\U0001d4d7\U0001d4f2", "Hi", "H i"], "hi", [0, 1]),
]

_ARABIC = [
    SearchCase("Arabic", ["السلام عليكم", "سلام", "كلام"], "سلام", [0, 1]),
    SearchCase("Arabic, one letter", ["باب", "دار", "ب"], "ب", [0, 2]),
    SearchCase("Arabic, two letters", ["كتاب", "تاب", "ت ا"], "تا", [0, 1]),
    SearchCase(
        "harakat in the text",
        [f"م{FATHA}ر{SUKUN}ح{FATHA}ب{FATHATAN}ا", "مرحبا", "مرحب"],
        "مرحبا",
        [0, 1],
    ),
    SearchCase(
        "harakat in the keyword",
        ["مرحبا", f"م{KASRA}رحبا", "حبا"],
        f"م{FATHA}ر{SUKUN}ح{FATHA}ب{FATHATAN}ا",
        [0, 1],
    ),
    SearchCase("shadda", [f"معل{SHADDA}{KASRA}م", "معلم", "معلّم", "معلل"], "معلم", [0, 1, 2]),
    SearchCase("superscript alef", [f"هـ{SMALL_ALEF}ذا", "هذا", "هاذا"], "هذا", [0, 1]),
    SearchCase("tatweel in the text", [f"مر{TATWEEL * 5}حبا", "مرحبا"], "مرحبا", [0, 1]),
    SearchCase("tatweel in the keyword", ["سلام", f"س{TATWEEL}لام"], f"ســلا{TATWEEL}م", [0, 1]),
    SearchCase("only a tatweel between words", [f"a{TATWEEL}b", "ab", "a b"], "ab", [0, 1]),
    SearchCase("Quranic marks", ["ق\u06d6ل\u06da ن\u06ed", "قل ن", "قلن"], "قل ن", [0, 1]),
    SearchCase("honorifics above", ["محمد\u0610", "محمد"], "محمد", [0, 1]),
    SearchCase("end of ayah stays", ["قل\u06dd", "قل"], "\u06dd", [0]),
    SearchCase("small waw and yeh stay", ["له\u06e5", "له", "به\u06e6"], "ه\u06e5", [0]),
    SearchCase("alef with hamza above", ["أحمد", "احمد", "حمد"], "احمد", [0, 1]),
    SearchCase("alef with hamza below", ["إسلام", "اسلام", "أسلام"], "إسلام", [0, 1, 2]),
    SearchCase("alef with madda", ["آمن", "امن", "ا\N{ARABIC MADDAH ABOVE}من"], "امن", [0, 1, 2]),
    SearchCase("alef wasla", ["\u0671لكتاب", "الكتاب"], "الكتاب", [0, 1]),
    SearchCase(
        "decomposed alef with hamza", [f"ا{HAMZA_ABOVE}حمد", "أحمد", "احمد"], "أحمد", [*range(3)]
    ),
    SearchCase("alef maksura is yeh", ["على", "علي", "علا"], "علي", [0, 1]),
    SearchCase("alef maksura in the keyword", ["موسي", "موسى", "موسا"], "موسى", [0, 1]),
    SearchCase("teh marbuta is no heh", ["مدرسة", "مدرسه"], "مدرسة", [0]),
    SearchCase("heh is no teh marbuta", ["مدرسة", "مدرسه"], "مدرسه", [1]),
    SearchCase("waw with hamza stays", ["مؤمن", "مومن", f"مو{HAMZA_ABOVE}من"], "مؤمن", [0, 2]),
    SearchCase("yeh with hamza stays", ["رئيس", "رييس", f"ري{HAMZA_ABOVE}يس"], "رئيس", [0, 2]),
    SearchCase("plain waw is not ؤ", ["مؤمن", "مومن"], "مومن", [1]),
    SearchCase("hamza stays", ["ماء", "ما"], "ماء", [0]),
    SearchCase("presentation forms", ["\ufee3\ufeae\ufea3\ufe92\ufe8e", "مرحبا"], "مرحبا", [0, 1]),
    SearchCase("lam-alef ligature", ["\ufefb", "لا", "لأ", "\ufef7", "ل ا"], "لا", [0, 1, 2, 3]),
    SearchCase("a part of lam-alef", ["\ufefb", "ل", "ا"], "ا", [0, 2]),
    SearchCase("a sentence in one sign", ["\ufdfa", "صلى الله عليه وسلم"], "الله عليه", [0, 1]),
    SearchCase("a fatha with a tatweel in one", ["a\ufe77b", "ab"], "ab", [0, 1]),
    SearchCase("Arabic digits are no Latin ones", ["١٢٣", "123"], "123", [1]),
    SearchCase("Arabic punctuation", ["كيف حالك؟", "كيف حالك?"], "؟", [0]),
    SearchCase("Arabic and Latin in one text", ["أهلا Bob!", "اهلا bob"], "اهلا BOB", [0, 1]),
    SearchCase("a direction mark stays", ["a\u200fb", "ab"], "ab", [1]),
    SearchCase(
        "Persian yeh",
        ["\u06cc\u06a9\u06cc", "\u064a\u0643\u064a", "\u0649\u0643\u0649"],
        "یکی",
        [0, 1, 2],
    ),
    SearchCase("Persian kaf", ["\u06a9تاب", "\u0643تاب", "تاب"], "\u0643تاب", [0, 1]),
    SearchCase("Arabic keyboard in a Persian chat", ["کیک", "كيك"], "\u0643\u064a\u0643", [0, 1]),
    SearchCase("Persian letters of its own", ["چگونه پژواک", "جكونه بزواك"], "پژو", [0]),
    SearchCase("a zero-width non-joiner stays", [f"می{ZWNJ}روم", "میروم", "می روم"], "میروم", [1]),
    SearchCase("a zero-width non-joiner is found", [f"می{ZWNJ}روم", "میروم"], f"ی{ZWNJ}ر", [0]),
    SearchCase("Persian digits are no Arabic ones", ["۱۲۳", "١٢٣"], "۱", [0]),
    SearchCase("Urdu", ["آپ کیسے ہیں؟", "میں ٹھیک ہوں"], "کیسے", [0]),
    SearchCase("Urdu alef with madda", ["آپ", "اپ"], "اپ", [0, 1]),
    SearchCase("Urdu big yeh stays", ["\u06d2", "\u06cc"], "\u06cc", [1]),
    SearchCase("Urdu heh stays", ["\u06c1", "\u0647"], "\u0647", [1]),
]

_ASIA = [
    SearchCase("Hebrew", ["שלום עולם", "שלום", "של ום"], "שלום", [0, 1]),
    SearchCase("Hebrew, one letter", ["שלום", "מים", "יד"], "ם", [0, 1]),
    SearchCase("Hebrew final letters stay", ["שלום", "שלומ"], "שלומ", [1]),
    SearchCase("niqqud stays", ["\u05e9\u05b8\u05c1לום", "שלום"], "שלום", [1]),
    SearchCase("niqqud is found", ["\u05e9\u05b8\u05c1לום", "שלום"], "\u05e9\u05b8\u05c1", [0]),
    SearchCase(
        "niqqud typed in another order",
        ["\u05e9\u05b8\u05c1", "\u05e9\u05c1\u05b8"],
        "\u05e9\u05c1\u05b8",
        [0, 1],
    ),
    SearchCase(
        "Hebrew presentation form", ["\ufb2a", "\u05e9\u05c1", "\u05e9"], "\u05e9\u05c1", [0, 1]
    ),
    SearchCase("Hindi", ["नमस्ते दुनिया", "नमस्कार", "नम"], "नमस्", [0, 1]),
    SearchCase("Hindi, a letter in a syllable", ["कि", "का", "ख"], "क", [0, 1]),
    SearchCase("Hindi, matras matter", ["कि", "की", "क"], "कि", [0]),
    SearchCase("Hindi, a matra alone", ["कि", "खि", "क"], "\u093f", [0, 1]),
    SearchCase("Hindi nukta", ["\u0958", "\u0915\u093c", "\u0915"], "\u0958", [0, 1]),
    SearchCase("Hindi, halves of a conjunct", ["क्या", "कया", "या"], "\u094dय", [0]),
    SearchCase("Bengali two-part vowel", ["\u0995\u09cb", "\u0995\u09c7\u09be"], "\u09cb", [0, 1]),
    SearchCase(
        "Bengali half a vowel", ["\u0995\u09cb", "\u0995\u09c7", "\u0995\u09be"], "\u09c7", [1]
    ),
    SearchCase("Tamil", ["வணக்கம்", "வந்தனம்"], "ணக்க", [0]),
    SearchCase("Tamil two-part vowel", ["\u0b95\u0bca", "\u0b95\u0bc6\u0bbe"], "\u0bca", [0, 1]),
    SearchCase("Thai", ["สวัสดีครับ", "ยินดีครับ", "ขอบคุณ"], "ดีครับ", [0, 1]),
    SearchCase("Thai tone marks stay", ["ข้าว", "ขาว"], "ขาว", [1]),
    SearchCase(
        "Thai sara am", ["น\u0e49\u0e33", "น\u0e49\u0e4d\u0e32", "น\u0e33"], "\u0e49\u0e33", [0, 1]
    ),
    SearchCase("Chinese", ["你好世界", "世界你好", "您好"], "你好", [0, 1]),
    SearchCase("Chinese, one character", ["中国", "中文", "国中", "日本"], "中", [0, 1, 2]),
    SearchCase("Chinese, across words", ["我们在学习", "我们学习"], "们在学", [0]),
    SearchCase("traditional is not simplified", ["學習", "学习"], "学", [1]),
    SearchCase("Chinese punctuation", ["你好，世界", "你好,世界", "你好世界"], ",", [0, 1]),
    SearchCase("the full stop of Chinese stays", ["好。", "好."], ".", [1]),
    SearchCase("compatibility ideograph", ["\uf900", "\u8c48"], "\u8c48", [0, 1]),
    SearchCase(
        "ideographs beyond the first plane", ["\U00020bb7野家", "吉野家"], "\U00020bb7", [0]
    ),
    SearchCase("Japanese", ["こんにちは世界", "こんばんは", "コンニチハ"], "こんに", [0]),
    SearchCase("hiragana is not katakana", ["すし", "スシ"], "すし", [0]),
    SearchCase("half-width kana", ["ｶﾀｶﾅ", "カタカナ", "かたかな"], "カタカナ", [0, 1]),
    SearchCase("half-width kana with a voiced mark", ["ｶﾞｷﾞ", "ガギ", "カキ"], "ガ", [0, 1]),
    SearchCase("half-width kana with a half-voiced mark", ["ﾊﾟﾝ", "パン", "ハン"], "ﾊﾟ", [0, 1]),
    SearchCase("decomposed kana", ["か\u3099", "が", "か"], "が", [0, 1]),
    SearchCase("ka is not ga", ["か\u3099", "が", "か"], "か", [2]),
    SearchCase("the long vowel mark", ["ラーメン", "ﾗｰﾒﾝ", "ラメン"], "ラー", [0, 1]),
    SearchCase("squared word", ["㌔", "キロ"], "キロ", [0, 1]),
    SearchCase("Korean", ["안녕하세요", "안녕히 가세요", "하세"], "안녕", [0, 1]),
    SearchCase("Korean, one syllable", ["한국", "대한", "하나"], "한", [0, 1]),
    SearchCase("jamo and syllables", ["\u1112\u1161\u11ab", "한", "하"], "한", [0, 1]),
    SearchCase(
        "jamo in the keyword", ["한국", "\u1112\u1161\u11ab국"], "\u1112\u1161\u11ab", [0, 1]
    ),
    SearchCase("syllable and tail", ["하\u11ab", "한", "하"], "한", [0, 1]),
    SearchCase("a syllable is not in a longer one", ["한", "하", "하나"], "하", [1, 2]),
    SearchCase("a lead is not in a syllable", ["한", "\u1112", "\u314e"], "\u1112", [1, 2]),
    SearchCase("laughing in jamo", ["ㅋㅋㅋ", "ㅋ", "ㅎㅎㅎ"], "ㅋㅋ", [0]),
]

_EMOJI = [
    SearchCase("one emoji", ["nice 😀", "😀😀", "😁", "nice"], "😀", [0, 1]),
    SearchCase("emoji inside words", ["wow😀wow", "wowwow"], "w😀w", [0]),
    SearchCase("a family, whole", [FAMILY, WOMAN + GIRL + BOY], FAMILY, [0]),
    SearchCase("a member of a family", [FAMILY, GIRL, BOY], GIRL, [0, 1]),
    SearchCase("a joined part", [PROGRAMMER, f"{WOMAN} {LAPTOP}", LAPTOP], ZWJ + LAPTOP, [0]),
    SearchCase("the joiner alone", [PROGRAMMER, WOMAN], ZWJ, [0]),
    SearchCase("any skin tone", [WAVE, WAVE + MEDIUM_SKIN], WAVE, [0, 1]),
    SearchCase("one skin tone", [WAVE, WAVE + MEDIUM_SKIN, MEDIUM_SKIN], WAVE + MEDIUM_SKIN, [1]),
    SearchCase("a flag", [f"go {EGYPT}!", f"go {GERMANY}!"], EGYPT, [0]),
    SearchCase("a flag out of two halves", [GERMANY + EGYPT, EGYPT], "\U0001f1ea\U0001f1ea", [0]),
    SearchCase("half a flag", [EGYPT, GERMANY, "E"], "\U0001f1ea", [0, 1]),
    SearchCase("a heart with its selector", [f"❤{VS16}", "❤"], f"❤{VS16}", [0]),
    SearchCase("a heart without its selector", [f"❤{VS16}", "❤", "💙"], "❤", [0, 1]),
    SearchCase("a keycap", [f"1{VS16}\u20e3", "1"], "1", [0, 1]),
    SearchCase("the joint of a keycap", [f"1{VS16}\u20e3", "1\u20e3"], "1\u20e3", [1]),
    SearchCase("a smiley of signs", [":-)", ":)", "ツ"], ":-)", [0]),
    SearchCase("letters in squares", ["🆗", "ok", "🄾🄺"], "ok", [1, 2]),
]

CASES = [*_PLAIN, *_OPERATORS, *_LATIN_AND_KIN, *_ARABIC, *_ASIA, *_EMOJI]
"""All cases. Their texts and keywords are valid: 1 to 10,000 and 1 to 256 code points, no NUL."""

INVALID_KEYWORDS = {
    "empty": "",
    "too long": "x" * 257,
    "NUL": "a\0b",
    "lone surrogate": "a\ud83d",
    "only a tatweel": TATWEEL,
    "only harakat": FATHA + SHADDA,
    "tatweels with harakat": f"{TATWEEL}{FATHA}{TATWEEL}",
    "presentation form of a tatweel with fatha": "\ufe77",
}
"""Keywords that the program rejects everywhere, by the reason."""
