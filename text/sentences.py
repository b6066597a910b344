"""Where sentences end: one rule, for pretraining text and for the passages of questions.

    sentences("One. Two.")                 # by the rules below, which know the common scripts
    sentences("Das z. B. ist einer.", "de")    # by sentencex (pip install sentencex), which knows languages

The rules need no library and cost less than tokenising. They are one expression that begins with a class of characters,
so that it runs through a text without a stop at the letters, and looks at each blank once, whatever the text.
"""

import functools
import itertools
import re

from files.mistakes import UserError

VERSION = 2  # of the rules; raise it when the same text would end elsewhere

# Behind these, and behind initials, a full stop ends no sentence: titles, and what stands before names or within a clause.
ABBREVIATIONS = """Mr Dr St Ms Lt vs Mrs Gen Col Rev Sgt Prof Capt  Hr Nr bzw z
    ул им гр св см ср пл тов гор обл проф акад""".split()
MONTHS = "Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember"  # "am 3. Mai"
NO_END = "".join(
    rf"(?<!\b(?:{'|'.join(group)})\.)" for _, group in itertools.groupby(sorted(ABBREVIATIONS, key=len), len)
) + (
    r"(?<!\b[A-HJ-ZА-ЮЁ]\.)(?<!\b(?:d\.\sh|т\.\s[ек])\.)"
    r"(?<!\D[\s(][гсро]\.)"  # г. Москва, with a village, a river and an island; but "1799 г." may end one
    rf"(?!(?:(?<=\b\d\.)|(?<=\b\d\d\.))\s(?:{MONTHS})\b)"
)  # fmt: skip
# What may begin a sentence: a letter, but a small one of Latin, Cyrillic or Armenian. Greek words begin English sentences.
SMALL = "".join(c for c in map(chr, [*range(0x80, 0x370), *range(0x400, 0x590), *range(0x1E00, 0x1F00)]) if c.islower())
BEGINNING = rf"""(?:["'“‘(„¿¡]|«\s?){{0,2}}[^\W\d_a-z{SMALL}]"""
STOPS = "。！？｡।॥؟۔։።፧။។៕"  # end a sentence without a blank: CJK, Devanagari, Arabic, Armenian, Ethiopic, Burmese, Khmer
CLOSING = "」』”’）】》〉»"
SENTENCE_END = re.compile(
    # blanks behind . ! ? and perhaps closing quotes, before what may begin a sentence
    rf"""[.!?…\n{STOPS}](?:(?<=[.!?…])(?:["'”’“)]|\s?»){{0,2}}{NO_END}\s+(?={BEGINNING})"""
    r"""|(?<=\n)\s*"""  # the ends of lines
    # The others of these, and perhaps closing quotes, where the clause does not go on: 「はい。」と言った。
    rf"""|(?<=[{STOPS}])(?:[{CLOSING}]{{1,3}}(?!と)|["')]{{1,2}}(?!\w))?(?![{STOPS}{CLOSING}"')、，；：])\s*(?=\S))"""
)
LINE = re.compile(r"[^\n]*\n\s*|[^\n]+")
UNSAFE = re.compile("[^\\S\n]|[\ud800-\udfff]")  # sentencex dies of wide blanks and of halves of characters


def sentence_ends(text: str, language: str = "rules") -> list[int]:
    """The characters behind which a sentence ends, its blanks included, but for the last one."""
    if language == "rules":
        return [end.end() for end in SENTENCE_END.finditer(text)]
    lines = LINE.findall(UNSAFE.sub(" ", text))
    lengths = (len(sentence) for line in lines for sentence in library().segment(language, line))
    return list(itertools.accumulate(lengths))[:-1]


def sentences(text: str, language: str = "rules") -> list[str]:
    """The sentences of a text, by a rule of thumb, without the blanks between them."""
    return [text[start:end].rstrip() for start, end in itertools.pairwise([0, *sentence_ends(text, language), len(text)])]


@functools.cache
def library():
    try:
        import sentencex
    except ImportError:
        raise UserError("--sentences LANGUAGE: needs sentencex; pip install sentencex, or say --sentences rules") from None
    return sentencex


def sentence_language(text: str) -> str:
    """The value of --sentences: "rules", or a language's code for sentencex, which must be there."""
    if text != "rules":
        if not re.fullmatch(r"[a-z]{2,3}(-[a-z]+)?", text):
            raise UserError(f"--sentences {text}: neither rules nor a language's code; write one such as de")
        library()
    return text


def sentence_version(language: str) -> str:
    """What, beside the text, decides where its sentences end; caches of sentences carry it."""
    if language == "rules":
        return f"rules {VERSION}"
    from importlib.metadata import version  # here for start-up time

    return f"sentencex {version('sentencex')} {language}"
