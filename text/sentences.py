"""Where sentences end: one rule, for pretraining text and for the passages of questions."""

import re
from itertools import pairwise

# Blanks behind . ! ? and perhaps closing quotes, not behind initials and titles, before what may begin a sentence; and
# the ends of lines.
SENTENCE_END = re.compile(
    r"""(?:(?<=[.!?…])|(?<=[.!?…]["'”’)])|(?<=[.!?…]["'”’)]["'”’)]))"""
    r"""(?<!\b[A-HJ-Z]\.)(?<!\b(?:Mr|Dr|St|Ms|Lt|vs)\.)(?<!\b(?:Mrs|Gen|Col|Rev|Sgt)\.)(?<!\b(?:Prof|Capt)\.)"""
    r"""\s+(?=["'“‘(]{0,2}[^\W\da-z_])|\s*\n\s*"""
)


def sentence_ends(text: str) -> list[int]:
    """The characters behind which a sentence ends, its blanks included, but for the last one."""
    return [end.end() for end in SENTENCE_END.finditer(text)]


def sentences(text: str) -> list[str]:
    """The sentences of a text, by a rule of thumb, without the blanks between them."""
    return [text[start:end].rstrip() for start, end in pairwise([0, *sentence_ends(text), len(text)])]
