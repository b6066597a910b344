"""Hugging Face's hub: what lies there under a name, fetched by its own client, huggingface_hub, into its own cache.

    is_name("google-bert/bert-base-uncased")                     # of a model: no file or folder here is called so
    repository = Repository("google-bert/bert-base-uncased@main")
    repository.files                                             # ["config.json", ...]
    folder = repository.fetch(["config.json"])                   # the folder in the cache that has these files

The client's variables hold: HF_ENDPOINT (a mirror), HF_TOKEN (for private and gated names), HF_HUB_OFFLINE, HF_HOME. Where
the hub is out of reach, what its cache has of a name is taken. The client is imported when a name is first asked for.
"""

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from files.mistakes import UserError, warn

PREFIX = "hub:"  # says that a name is one of the hub's, whatever lies here
NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(@\w[\w./-]*)?", re.ASCII)  # owner/name or name, and a revision
# What ends so is a file that is missing, not a name: models of ours, of others, and what people pack them in.
FILES = (".pt", ".pth", ".bin", ".safetensors", ".h5", ".json", ".txt", ".model", ".zip", ".gz", ".tgz", ".tar", ".index")
TIMEOUT = 10.0  # seconds until a hub that does not answer counts as out of reach
LOGIN = "log in by `hf auth login`, or set HF_TOKEN"


PASSING = 407, 408, 429  # a proxy's, a time that ran out, too many at once: another time it may be had


def is_name(text: str | Path) -> bool:
    """Does ``text`` name a model of the hub, and no path? Paths are what exists, what begins with ``.``, ``~`` or ``/``,
    what has several slashes, or a file's ending, or begins with a folder that is here."""
    if not isinstance(text, str):
        return False
    if text.startswith(PREFIX):
        return True
    repo, _, _ = text.partition("@")
    owner, slash, _ = repo.partition("/")
    path = os.path.lexists(text) or repo.lower().endswith(FILES) or ".ckpt" in repo or (slash and os.path.isdir(owner))
    return not path and NAME.fullmatch(text) is not None


def is_of_others(path: str | Path) -> bool:
    """Is this a model in other software's layout, a folder or a name of the hub, and no file of one?"""
    return is_name(path) or os.path.isdir(path)


class Repository:
    """What lies under a name, ``owner/name`` or ``owner/name@revision``; ``kind`` is "model" or "dataset".

    ``told`` is what to call it in a message, where that is not the name. Raises UserError, one line, where the hub has no
    such name, or it cannot be had.
    """

    def __init__(self, name: str, kind: str = "model", told: str | None = None):
        self.name, self.kind = told or name, kind
        repo, _, revision = name.removeprefix(PREFIX).partition("@")
        self.client = client_for(self.name)
        if not NAME.fullmatch(repo):
            raise UserError(f"{name}: no name of the hub; those are owner/name, or owner/name@revision")
        self.where: dict[str, Any] = dict(repo_id=repo, repo_type=kind, revision=revision or None)
        self.kept = None  # the folder in the cache, where the hub is out of reach
        try:
            found = self.client.repo_info(**self.where, timeout=TIMEOUT).siblings
            self.files = sorted(file.rfilename for file in found or ())
        except Exception as error:  # the client's, and those of the libraries for HTTP below it, share no class
            self.kept = self.in_cache(error)
            self.files = sorted(path.relative_to(self.kept).as_posix() for path in self.kept.rglob("*") if path.is_file())

    def in_cache(self, error):
        if status_of(error) and status_of(error) < 500 and status_of(error) not in PASSING:
            raise refusal(self.name, self.kind, error) from None
        try:
            folder = Path(self.client.snapshot_download(**self.where, local_files_only=True))
        except Exception:
            raise refusal(self.name, self.kind, error) from None
        if not offline():
            warn(f"{self.name}: {endpoint()} cannot be reached ({reason(error)}); taking what its cache has")
        return folder

    def fetch(self, names: Iterable[str]) -> Path:
        """The folder in the client's cache that has these of the ``files``."""
        if self.kept:
            return self.kept
        try:
            return Path(self.client.snapshot_download(**self.where, allow_patterns=[glob.escape(name) for name in names]))
        except Exception as error:  # as above
            raise refusal(self.name, self.kind, error) from None


# What another model of that name may have left, and readers would take.
OTHERS = """vocab.txt spiece.model tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json
    model.safetensors model-*-of-*.safetensors model.safetensors.index.json
    pytorch_model.bin pytorch_model-*-of-*.bin pytorch_model.bin.index.json""".split()


def upload(folder: Path, name: str, private: bool = False) -> str:
    """Make the files of a folder those of ``owner/name``, which is made where it is not there; gives its address.

    What an earlier model left there as vocabulary or weights, and this one does not have, goes.
    """
    client = client_for(name)
    try:
        client.create_repo(name, private=private or None, exist_ok=True)
        client.upload_folder(repo_id=name, folder_path=folder, commit_message="Model, vocabulary and card",
                             delete_patterns=OTHERS)  # fmt: skip
    except Exception as error:  # as above
        if status_of(error):
            raise UserError(f"{name}: not sent, {endpoint()} refuses it ({reason(error)}); with a token that may write "
                            f"there, {LOGIN}") from None  # fmt: skip
        raise UserError(f"{name}: not sent ({reason(error)}); try again with a network, or --dry-run") from None
    return f"{endpoint()}/{name}"


def client_for(name: str) -> Any:
    """The client, huggingface_hub.HfApi. Raises UserError where it is not installed."""
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UserError(f"{name}: is no file or folder here; for the hub: pip install huggingface_hub"
                        ) from None  # fmt: skip
    return HfApi(endpoint())


def refusal(name: str, kind: str, error: Exception) -> UserError:
    """In one line, why the hub does not give what is called ``name``, and what to do."""
    import huggingface_hub.errors as errors

    nothing = f"{name}: " + ("no such file or folder here, and " if kind == "model" and PREFIX not in name else "")
    hub, remedy = endpoint(), "check the spelling" if kind == "dataset" else "check the spelling, or name a file or folder"
    if isinstance(error, errors.GatedRepoError):
        return UserError(f"{name}: {hub} gives it only to those who were let in; ask there, then {LOGIN}")
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{name}: {hub} has no such revision of it; name a branch, a tag or a commit of it")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(f"{nothing}{hub} has no such {kind}, or a private one; {remedy}; for a private one {LOGIN}")
    if status_of(error) in (401, 403):
        return UserError(f"{name}: {hub} refuses it ({reason(error)}); {LOGIN}")
    if offline():
        return UserError(f"{nothing}nothing in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it; fetch it once "
                         "without that, or name a file or folder")  # fmt: skip
    if isinstance(error, OSError) and error.errno and error.filename:
        return UserError(f"{name}: cannot be kept at {error.filename} ({error.strerror}); free space, or set HF_HOME")
    return UserError(f"{nothing}{hub} cannot be reached ({reason(error)}); try again with a network, set HF_ENDPOINT to a "
                     "mirror, or name a file or folder")  # fmt: skip


def status_of(error: Exception) -> int | None:
    """The HTTP status that an error tells of."""
    return getattr(getattr(error, "response", None), "status_code", None)


def reason(error: Exception) -> str:
    """The gist of an error: of one about a connection the innermost, which says what is amiss."""
    if status := status_of(error):
        return f"HTTP {status}"
    while inner := getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, Exception)), None):
        if not isinstance(inner, Exception):
            break
        error = inner
    return " ".join(str(error).split()).rpartition(": ")[2][:120] or type(error).__name__


def endpoint() -> str:
    """The hub's address: not the client's constant, which stays what it was when something first imported that."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def offline() -> bool:
    import huggingface_hub

    return bool(huggingface_hub.constants.HF_HUB_OFFLINE)
