"""Plain text: splits that are disjoint and complete, pieces of bounded size, documents, paragraphs."""

import gzip
import itertools
import json
import os
from pathlib import Path

import pytest
from conftest import within
from hypothesis import given, settings
from hypothesis import strategies as st

from files.mistakes import UserError
from text import corpus
from text.corpus import corpus_parts, cut_after, paragraphs, pieces, share, text_files
from text.places import SPLITS, Places

STYLES = sorted(corpus.STYLES)


def content(parts):
    return b"".join(Path(path).read_bytes()[start:end] for path, start, end in parts)


def documents(parts, style):
    """The parts' documents, each a list of paragraphs."""
    found = []
    for _, piece in pieces(parts, style):
        for begins, paragraph in paragraphs(piece, style):
            if begins:
                found.append([])
            found[-1].append(paragraph)
    return found


@pytest.fixture
def text_file(tmp_path):
    def write(text, name="text.txt"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


# -- Splits ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def forty_books(tmp_path):
    folder = tmp_path / "data" / "books"
    folder.mkdir(parents=True)
    for number in range(40):
        (folder / f"book {number}.txt").write_text(f"This is book {number}.\n")
    return Places(tmp_path / "data", tmp_path / "cache")


def test_books_are_divided_85_to_5_to_10_by_book(forty_books):
    books = [[path.name for path, _, _ in corpus_parts("BookCorpus", split, forty_books)[0]] for split in SPLITS]
    assert list(map(len, books)) == [34, 2, 4]
    assert sorted(itertools.chain(*books)) == sorted(f"book {number}.txt" for number in range(40))
    assert books[0] != sorted(books[0])  # no split is all of one author, whose books may stand together


def test_files_of_one_name_are_divided_by_their_folders_hashes(tmp_path):
    found = []
    for place in ("here", "there"):
        for number in range(40):
            (tmp_path / place / f"{number:02}").mkdir(parents=True)
            (tmp_path / place / f"{number:02}" / "text.txt").write_text("A cat sat. " * 100)
        places = Places(tmp_path, tmp_path / "cache")
        parts = corpus_parts(str(tmp_path / place), "test", places)[0]
        found.append(sorted(path.parent.name for path, _, _ in parts))
    assert len(found[0]) == 4 and found[0] != ["36", "37", "38", "39"] and found[0] == found[1]


def test_books_are_divided_in_the_same_way_whatever_the_order_of_the_listing(forty_books, monkeypatch):
    before = [corpus_parts("BookCorpus", split, forty_books) for split in SPLITS]
    listing = sorted(forty_books.data.rglob("*.txt"), key=lambda path: path.name[::-1], reverse=True)
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: iter(listing))
    assert [corpus_parts("BookCorpus", split, forty_books) for split in SPLITS] == before


def test_books_are_divided_in_the_same_way_wherever_they_lie(forty_books, tmp_path):
    before = [path.name for path, _, _ in corpus_parts("BookCorpus", "test", forty_books)[0]]
    os.rename(tmp_path / "data", tmp_path / "moved")
    assert [p.name for p, _, _ in corpus_parts("BookCorpus", "test", Places(tmp_path / "moved", tmp_path))[0]] == before


def test_the_real_books_are_divided_by_book(shared_data, tmp_path):
    places = Places(shared_data, tmp_path)
    books = {split: {path.name for path, _, _ in corpus_parts("BookCorpus", split, places)[0]} for split in SPLITS}
    assert {split: len(names) for split, names in books.items()} == {"train": 122, "valid": 8, "test": 14}
    assert len(set.union(*books.values())) == 144


# "é中" need two and three bytes; blanks and breaks are rare, as in a language that writes none.
any_text = st.text(st.sampled_from("aé中.\n ") | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=400)


@settings(deadline=None)
@given(text=any_text, style=st.sampled_from(STYLES))
def test_the_splits_of_a_single_file_cover_it_without_overlap(tmp_path_factory, text, style):
    path = tmp_path_factory.mktemp("single") / "text.txt"
    path.write_bytes(text.encode())
    parts = [content(share({path: path}, split, style)) for split in SPLITS]
    assert b"".join(parts) == text.encode()
    for part in parts:
        part.decode()  # no character is cut in two


def test_a_single_file_is_cut_between_paragraphs_near_85_and_90_percent(text_file):
    path = text_file("".join(f"Paragraph {number}\ngoes on.\n\n" for number in range(1000)))
    sizes = [len(content(share({path: path}, split, "book"))) / os.path.getsize(path) for split in SPLITS]
    assert sizes == pytest.approx([0.85, 0.05, 0.10], abs=0.003)
    for split in SPLITS:
        part = content(share({path: path}, split, "book"))
        assert part.startswith(b"Paragraph") and part.endswith(b"on.\n\n")


def test_hidden_files_are_no_books(text_file, tmp_path):
    text_file("a", "a.txt"), text_file("x", "._a.txt")
    assert [path.name for path in text_files(tmp_path)] == ["a.txt"]


# -- Pieces ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(text=any_text, style=st.sampled_from(STYLES), size=st.integers(4, 40))
def test_the_pieces_of_a_text_are_the_text(tmp_path_factory, text, style, size):
    path = tmp_path_factory.mktemp("pieces") / "text.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "PIECE", size)
        found = list(pieces([(path, 0, os.path.getsize(path))], style))
    assert b"".join(piece[2] for _, piece in found) == text.encode()
    for length, (_, _, part, _) in found:
        part.decode()
        assert length == len(part) <= 5 * size


def test_a_piece_ends_with_a_paragraph_where_there_is_one_else_with_a_line_else_with_a_word(text_file, monkeypatch):
    monkeypatch.setattr(corpus, "PIECE", 30)

    def cut(text):
        return [piece[2].decode() for _, piece in pieces([(text_file(text), 0, len(text))], "book")]

    assert cut("One two.\n\nThree\nfour five six seven") == ["One two.\n\n", "Three\nfour five six seven"]
    assert cut("One two three\nfour five six seven eight") == ["One two three\n", "four five six seven eight"]
    assert cut("one two three four five six seven") == ["one two three four five six ", "seven"]
    assert cut("x" * 70) == ["x" * 30, "x" * 30, "x" * 10]


def test_cutting_at_a_place_where_text_was_cut_gives_that_place(text_file):
    path = text_file("One line.\nAnother line.\n\nA third one. " * 20)
    for style in STYLES:
        place = cut_after(path, 100, style, 50)
        assert cut_after(path, place, style, 50) == place


# -- Documents and paragraphs ------------------------------------------------------------------------------------------


def test_a_book_is_one_document_of_paragraphs_between_blank_lines(text_file):
    path = text_file("\ufeffOne\r\nline.\r\n\r\n  \r\nTwo\tlines.\n\n\nThree.")
    assert documents([(path, 0, os.path.getsize(path))], "book") == [["One line.", "Two lines.", "Three."]]


def test_in_wikitext_titles_begin_documents_and_headings_do_not(text_file):
    path = text_file(" \n = First Article = \n \n Text . \n = = Section = = \n More . \n = B = \n Short = title = . \n")
    first = ["= First Article =", "Text .", "= = Section = =", "More ."]
    assert documents([(path, 0, os.path.getsize(path))], "wiki") == [first, ["= B =", "Short = title = ."]]


def test_the_real_wikitext_has_sixty_articles(shared_data):
    path = shared_data / "wikitext-2" / "wiki.valid.tokens"
    found = documents([(path, 0, os.path.getsize(path))], "wiki")
    assert len(found) == 60
    assert found[0][0] == "= Homarus gammarus ="


def test_each_line_of_a_news_crawl_is_a_document_even_one_longer_than_a_piece(text_file, monkeypatch):
    monkeypatch.setattr(corpus, "PIECE", 20)
    path = text_file("One line.\nThis line takes several pieces to read.\nThree.\nFour.\n")
    found = documents([(path, 0, os.path.getsize(path))], "lines")
    assert [" ".join(parts) for parts in found] == path.read_text().splitlines()


PAGES = """<mediawiki xml:lang="en">
  <siteinfo><base>http://site</base></siteinfo>
  <page><title>Cat</title><revision><text xml:space="preserve">{{Box | name = {{bold|Cat}} | is = {{a|{{b|c}}}}
| latin = ''Felis {{small|catus}}''
}}
[[Image:Cat.jpg|thumb|A [[house cat|cat]] at [http://home.org home]]]
The '''cat''' is a [[carnivore|carnivorous]] [[mammal]].&lt;ref name=&quot;a&quot;&gt;See [http://x.org x]&lt;/ref&gt; \
It purrs&amp;nbsp;&amp;mdash; often.&lt;ref name=b /&gt;&lt;!-- a comment
over lines --&gt;
== History ==
* An [[Ancient Egypt|Egyptian]] item
# &lt;b&gt;bold&lt;/b&gt;: 3 &lt; 4 &amp;amp; 5 &gt; 2
{| class=&quot;wikitable&quot;
! head
|-
| cell || {| nested | x |}
|}
See [http://example.org the site] and [http://example.org].
| stray cell
After the tables. [[Batman: Year One]]
[[Category:Cats]] [[de:Katze]] [[zh-min-nan:X]] __NOTOC__ &lt;math&gt;x^2&lt;/math&gt;
</text></revision></page>
  <page><title>R</title><revision><text xml:space="preserve">#REDIRECT [[Cat]]</text></revision></page>
  <page><title>E</title><revision><text bytes="0" xml:space="preserve" /><sha1>phoiac9h</sha1></revision></page>
  <page><title>Dog</title><revision><text xml:space="preserve">A dog barks.
It wags.</text><sha1>0</sha1></revision></page>
  <page><title>Cut</title><revision><text xml:space="preserve">The file ends he"""


def test_pages_of_enwik9_lose_their_markup(text_file):
    path = text_file(PAGES)
    assert documents([(path, 0, os.path.getsize(path))], "xml") == [
        [
            "The cat is a carnivorous mammal. It purrs — often.",
            "History",
            "An Egyptian item",
            "bold : 3 < 4 & 5 > 2",
            "See the site and .",
            "After the tables. Batman: Year One",
        ],
        ["A dog barks.", "It wags."],
        ["The file ends he"],
    ]


def test_a_page_cut_in_two_goes_on_in_the_next_piece(text_file, monkeypatch):
    monkeypatch.setattr(corpus, "PIECE", 120)
    lines = [f"Line {number} of a long page." for number in range(30)]
    page = "<page><title>T</title><text>{}</text></page>\n"
    path = text_file(page.format("\n".join(lines)) + page.format("Next."))
    assert documents([(path, 0, os.path.getsize(path))], "xml") == [lines, ["Next."]]


NEVER_CLOSED = ["<!--", "<ref>", "{|", "[[", "{{", "<math>", "[http://a ", "[http://" + "a" * 100_000, "<text>"]


@pytest.mark.parametrize("part", NEVER_CLOSED, ids=lambda part: part[:10])
def test_markup_that_is_never_closed_takes_no_minutes(part):
    with within(60):
        list(paragraphs(("x", 0, (part * (1 + (1 << 18) // len(part))).encode(), True), "xml"))


# -- Mistakes ----------------------------------------------------------------------------------------------------------


def test_text_that_is_not_utf8_is_told_with_the_byte_in_the_file(text_file, monkeypatch):
    monkeypatch.setattr(corpus, "PIECE", 50)
    path = text_file(b"These are good lines.\n" * 10 + b"caf\xe9\n" + b"And these too.\n" * 5)
    with pytest.raises(UserError, match=r"text\.txt: not UTF-8 at byte 223; convert it"):
        documents([(path, 0, os.path.getsize(path))], "book")


def test_a_file_of_json_is_no_text(tmp_path):
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(UserError, match="JSON is no plain text"):
        text_files(tmp_path / "train.json")


def test_a_folder_without_text_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"holds no \.txt file; put"):
        text_files(tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_a_user_error(text_file):
    with pytest.raises(UserError, match="shorter while it was read"):
        list(pieces([(text_file("short"), 0, 100)], "book"))


def test_a_file_that_cannot_be_read_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"gone\.txt: cannot be read"):
        list(pieces([(tmp_path / "gone.txt", 0, 10)], "book"))


def test_what_the_cache_holds_is_no_text_of_the_folder_in_which_it_lies(tmp_path):
    for number in range(12):
        with gzip.open(tmp_path / f"{number}.jsonl.gz", "wt") as stream:
            stream.write(json.dumps({"text": f"story {number} " * 30}) + "\n")
    places = Places(tmp_path, tmp_path / "cache")
    found = [[corpus_parts(str(tmp_path), split, places)[0] for split in SPLITS] for _ in range(2)]
    assert found[0] == found[1] and len(text_files(tmp_path)) == 12
    within = Places(tmp_path, tmp_path)  # beside the text
    for split in SPLITS:
        corpus_parts(str(tmp_path), split, within)
    assert len(text_files(tmp_path)) == 12
