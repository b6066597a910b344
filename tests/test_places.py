"""Data sets by name: where their files are found or fetched, and what a name or a path may be."""

import hashlib
import io
import os
import tarfile
import zipfile

import pytest
from toys import caches, complaint, small_squad, write_all

from text import places as places_module
from text.corpus import corpus_parts
from text.places import SPLITS, Source, kinds_of
from text.questions import load_race_splits, load_squad_splits

WIKI = {f"wikitext-2/wiki.{split}.tokens": f" = Title = \n \n The {split} text . \n".encode() for split in SPLITS}


def zipped(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as package:
        for name, content in members.items():
            package.writestr(name, content)
    return stream.getvalue()


def tarred(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as package:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            package.addfile(info, io.BytesIO(content))
    return stream.getvalue()


# -- Where the files come from -----------------------------------------------------------------------------------------


def texts(name, places):
    return [corpus_parts(name, split, places)[0][0][0].read_text() for split in SPLITS]


def test_files_in_the_data_folder_come_first_and_nothing_is_written(places):
    write_all(places.data, WIKI)
    (places.data / "wikitext-2-v1.zip").write_bytes(b"not looked at")
    assert texts("WikiText2", places) == [content.decode() for content in WIKI.values()]
    assert not places.cache.exists()


def test_an_archive_is_unpacked_once_into_the_cache(places, monkeypatch):
    (places.data / "wikitext-2-v1.zip").write_bytes(zipped(WIKI))
    assert texts("WikiText2", places) == [content.decode() for content in WIKI.values()]
    monkeypatch.setattr(places_module, "extract", None)
    texts("WikiText2", places)
    assert os.listdir(places.data) == ["wikitext-2-v1.zip"]


def test_books_may_lie_in_an_archive_with_any_folder(places):
    (places.data / "books.tar.gz").write_bytes(tarred({f"epubtxt/{n}.txt": b"A book." for n in range(20)}))
    assert [len(corpus_parts("BookCorpus", split, places)[0]) for split in SPLITS] == [17, 1, 2]


def test_an_archive_without_the_data_set_is_a_user_error(places):
    (places.data / "wikitext-2-v1.zip").write_bytes(zipped({"readme.txt": b"nothing"}))
    with complaint(r"v1\.zip: holds no wikitext-2/wiki\.train\.tokens; fetch .* or unpack"):
        corpus_parts("WikiText2", "train", places)


def test_a_set_that_nobody_may_pass_on_says_what_to_put_where(places):
    with complaint(r"data/books: not found; BookCorpus is not public: put books as .* into .*books\.tar"):
        corpus_parts("BookCorpus", "train", places)


def test_what_is_missing_is_fetched_unpacked_and_kept(places, site, monkeypatch):
    folder, address = site
    archive = zipped(WIKI)
    (folder / "wiki.zip").write_bytes(archive)
    checksum = "md5:" + hashlib.md5(archive).hexdigest()
    monkeypatch.setitem(places_module.SOURCES, "WikiText2", Source("w.zip", f"{address}/wiki.zip", checksum))
    assert texts("WikiText2", places) == [content.decode() for content in WIKI.values()]
    (folder / "wiki.zip").unlink()
    assert texts("WikiText2", places) == [content.decode() for content in WIKI.values()]
    assert os.listdir(places.data) == ["w.zip"]


def test_a_download_with_another_checksum_is_refused_and_leaves_nothing(places, site, monkeypatch):
    folder, address = site
    (folder / "wiki.zip").write_bytes(zipped(WIKI))
    monkeypatch.setitem(places_module.SOURCES, "WikiText2", Source("w.zip", f"{address}/wiki.zip", "md5:" + "0" * 32))
    with complaint(r"wiki\.train\.tokens: not found, and .*its md5 is \w+, expected 0+\).* put it at"):
        corpus_parts("WikiText2", "train", places)
    assert os.listdir(places.data) == [] and caches(places) == []


def test_squad_is_fetched_file_by_file(places, site, monkeypatch):
    folder, address = site
    write_all(folder, {"train-v1.1.json": small_squad(2), "dev-v1.1.json": small_squad(1)})
    for part in ("train-v1.1.json", "dev-v1.1.json"):
        monkeypatch.setitem(places_module.SOURCES, part, Source("", f"{address}/{part}"))
    assert {split: len(found.questions) for split, found in load_squad_splits("SQuAD1", places).items()} == {
        "train": 1, "valid": 1, "test": 1,
    }  # fmt: skip
    assert sorted(os.listdir(places.data / "squad")) == ["dev-v1.1.json", "train-v1.1.json"]


def test_what_cannot_be_fetched_names_file_address_and_remedy(places, site, monkeypatch):
    monkeypatch.setitem(places_module.SOURCES, "train-v2.0.json", Source("", f"{site[1]}/gone.json"))
    with complaint(r"train-v2\.0\.json: not found, and http.*404.*; fetch it by hand and put it at"):
        places.find("squad/train-v2.0.json", "train-v2.0.json")


# -- Names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("Wikitext-2", "did you mean WikiText2"), ("squad", "did you mean SQuAD[12]"), ("zzz", "check the spelling")],
)
def test_an_unknown_name_is_told_with_the_known_ones_and_the_nearest(places, name, remedy):
    with complaint(rf"--dataset {name}: neither a data set \(Sample, .*\) nor a file or folder; {remedy}"):
        kinds_of(name, places)


def test_a_set_for_another_task_is_told_so(places):
    with complaint(r"--dataset RACE: that set is for race_task\.py; choose Sample, SQuAD1, SQuAD2, or"):
        load_squad_splits("RACE", places)
    with complaint(r"--dataset Text: that set is for mlm_task\.py and ns_task\.py; choose Sample, RACE, or"):
        load_race_splits("Text", places)


def test_a_path_is_read_as_what_lies_there(places, tmp_path):
    write_all(tmp_path, {"q/train.json": small_squad(1), "r/train/1.txt": {}, "r/test/1.txt": {}, "t/1.txt": b"",
                         "1.txt": b""})  # fmt: skip
    kinds = {name: kinds_of(str(tmp_path / name), places) for name in ("q", "r", "t", "1.txt")}
    assert kinds == {"q": ["questions"], "r": ["choices"], "t": ["text"], "1.txt": ["text"]}
    assert kinds_of("Sample", places) == ["text", "questions", "choices"]


def test_text_is_text_also_beside_settings_that_other_software_left(places, tmp_path):
    write_all(tmp_path, {"train.txt": b"A sentence.", "trainer_state.json": {"epoch": 1}})
    assert kinds_of(str(tmp_path), places) == ["text"]
    write_all(tmp_path, {"train.json": small_squad(1)})  # before trainer_state.json, as files are sorted
    assert kinds_of(str(tmp_path), places) == ["questions"]


def test_folders_are_those_of_the_environment_where_it_names_some(monkeypatch):
    for name, place, usual in (("BERT_DATA", places_module.default_data_dir, "data"),
                               ("BERT_CACHE", places_module.default_cache_dir, "cache")):  # fmt: skip
        monkeypatch.setenv(name, "/elsewhere")
        assert place() == "/elsewhere"
        monkeypatch.delenv(name)
        assert place() == usual


def test_all_that_is_fetched_has_a_checksum():
    assert all(source.checksum.startswith(("md5:", "sha256:")) for source in places_module.SOURCES.values() if source.url)
