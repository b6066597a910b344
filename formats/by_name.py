"""Models of Hugging Face's hub by name: only what is read of them is fetched, and nothing of other networks' weights.

    folder = fetched("google-bert/bert-base-uncased")       # for huggingface.read_folder
"""

import contextlib
import functools
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from files.hub import Repository
from files.mistakes import UserError
from formats.huggingface import read_config
from formats.vocabularies import READERS

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
PARTS = {"model.safetensors.index.json": "model-*.safetensors", "pytorch_model.bin.index.json": "pytorch_model-*.bin"}
VOCABULARIES = tuple(READERS)


@functools.cache
def fetched(name: str) -> Path:
    """The folder in the client's cache with a model's files. Raises UserError where it is not to be had, or no BERT."""
    repository = Repository(name)
    if "config.json" not in repository.files:
        raise UserError(f"{name}: holds no config.json, so it is no model of transformers; name another")
    folder = repository.fetch(["config.json"])
    with told_as(name, folder):
        read_config(folder / "config.json")
    if not set(VOCABULARIES) & set(repository.files):
        raise UserError(f"{name}: holds no {', '.join(VOCABULARIES[:-1])} or {VOCABULARIES[-1]}; make tokenizer.json, by "
                        f"transformers' AutoTokenizer.from_pretrained({name!r}).save_pretrained(FOLDER), beside the rest "
                        "of it, and name that folder")  # fmt: skip
    return repository.fetch(needed(repository.files))


def needed(files: list[str]) -> list[str]:
    """Those of a repository's files that are read: config, weights in the first layout that is there, vocabulary."""
    weights = next((name for name in WEIGHTS if name in files), "")
    vocabulary = next((name for name in VOCABULARIES if name in files), "")
    rules = "tokenizer.json" if vocabulary == "vocab.txt" else ""  # read beside it
    read = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", weights, vocabulary,
            rules)  # fmt: skip
    return [name for name in files if name in read or fnmatch(name, PARTS.get(weights, ""))]


@contextlib.contextmanager
def told_as(name: str, folder: Path) -> Iterator[None]:
    """What is wrong in here with the folder is told with the model's name."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(folder), name)) from None
