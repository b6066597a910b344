"""A hub on loopback that speaks as much of Hugging Face's interface as the client asks for: looking up, fetching, pushing.

    with Hub() as hub:
        hub.put("someone/tiny", {"config.json": b"{}"})                 # or kind="datasets", revision="v1"
        subprocess.run(..., env={**os.environ, **hub.environment(tmp_path)})
        hub.asked                                                       # ["GET /api/models/someone/tiny", ...]

``hub.gated`` and ``hub.private`` hold names that want the token; what is pushed needs it, too.
"""

import base64
import hashlib
import io
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
import torch
import toys

from checkpoint import read_model, save_model
from formats.huggingface import write_folder
from model import BertConfig, QuestionAnswerTask

TOKEN = "hf_loopback"
TREE = re.compile(r"/api/(models|datasets)/(?P<repo>[^/]+(?:/(?!tree/)[^/]+)?)/tree/(?P<revision>.+)")
API = re.compile(r"/api/(models|datasets)/(?P<repo>[^/]+(?:/(?!revision/)[^/]+)?)(?:/revision/(?P<revision>.+))?")
RESOLVE = re.compile(r"(?:/(datasets))?/(?P<repo>[^/]+(?:/(?!resolve/)[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
UPLOAD = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>preupload|commit)/main")


class Hub:
    def __init__(self):
        self.content, self.blobs = {}, {}  # (kind, repo, revision) -> {path: bytes}; digest -> bytes
        self.gated, self.private, self.created, self.asked = set(), set(), {}, []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def put(self, repo, files, kind="models", revision="main"):
        self.content.setdefault((kind, repo, revision), {}).update(files)

    def environment(self, folder, **more):
        """What a process needs to take this for the hub, with a cache below the folder."""
        return {"HF_ENDPOINT": self.address, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "",
                "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*", **more}  # fmt: skip


def sha(files):
    digest = hashlib.sha1()
    for path, content in sorted(files.items()):
        digest.update(path.encode() + b"\0" + content)
    return digest.hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_):
        pass

    def answer(self, body=b"", status=200, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code):
        self.answer({"error": code}, status, X_Error_Code=code)

    def files_of(self, kind, repo, revision):
        """What lies there, or None where that was refused."""
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        there = {revision for *found, revision in self.hub.content if found == [kind, repo]}
        if not there or (repo in self.hub.private and not allowed):
            return self.refuse(401, "RepoNotFound")
        if repo in self.hub.gated and not allowed:
            return self.refuse(403, "GatedRepo")
        by_sha = {sha(self.hub.content[kind, repo, name]): name for name in there}
        revision = by_sha.get(revision, revision)
        return self.hub.content[kind, repo, revision] if revision in there else self.refuse(404, "RevisionNotFound")

    def do_GET(self):
        path = urlsplit(self.path).path
        self.hub.asked.append(f"{self.command} {path}")
        if (found := API.fullmatch(path)) and "/tree/" not in path:
            files = self.files_of(found[1], found["repo"], unquote(found["revision"] or "main"))
            if files is not None:
                self.answer({"_id": "1", "id": found["repo"], "sha": sha(files), "private": False, "tags": [], "likes": 0,
                             "downloads": 0, "siblings": [{"rfilename": name} for name in files]})  # fmt: skip
        elif found := TREE.fullmatch(path):
            files = self.files_of(found[1], found["repo"], unquote(found["revision"]))
            if files is not None:
                self.answer([{"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                             for name, content in files.items()])  # fmt: skip
        elif found := RESOLVE.fullmatch(path):
            files = self.files_of(found[1] or "models", found["repo"], unquote(found["revision"]))
            if files is not None and unquote(found["path"]) not in files:
                self.refuse(404, "EntryNotFound")
            elif files is not None:
                content = files[unquote(found["path"])]
                self.answer(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=sha(files))
        else:
            self.refuse(404, "NotFound")

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        self.hub.asked.append(f"{self.command} {path}")
        found = UPLOAD.fullmatch(path)
        if self.command == "PUT":
            self.hub.blobs[path.rpartition("/")[2]] = body
            self.answer()
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "Unauthorized")
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            self.hub.created[repo] = asked
            self.hub.content.setdefault(("models", repo, "main"), {})
            self.answer({"url": f"{self.hub.address}/{repo}"})
        elif path.endswith("/info/lfs/objects/batch"):
            self.answer({"transfer": "basic", "objects": [
                {**one, "actions": {"upload": {"href": f"{self.hub.address}/blobs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]]})  # fmt: skip
        elif found and found["what"] == "preupload":
            self.answer({"files": [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                 "shouldIgnore": False, "oid": None} for file in json.loads(body)["files"]]})  # fmt: skip
        elif found:
            self.commit(found["repo"], [json.loads(line) for line in body.splitlines()])
        else:
            self.refuse(404, "NotFound")

    do_PUT = do_POST

    def commit(self, repo, orders):
        made = {one["value"]["path"]: base64.b64decode(one["value"]["content"]) for one in orders if one["key"] == "file"}
        made |= {one["value"]["path"]: self.hub.blobs[one["value"]["oid"]] for one in orders if one["key"] == "lfsFile"}
        self.hub.put(repo, made)
        for gone in (one["value"]["path"] for one in orders if one["key"] == "deletedFile"):
            del self.hub.content["models", repo, "main"][gone]
        self.answer({"success": True, "commitOid": sha(made), "commitUrl": f"{self.hub.address}/{repo}/commit/1",
                     "hookOutput": ""})  # fmt: skip


# What lies there


def tiny(folder, layout="model.safetensors"):
    """The files of a tiny model, its weights in one of the layouts that there are."""
    letters, path = toys.letters(), folder / "made.pt"
    save_model(path, QuestionAnswerTask(BertConfig(len(letters), 32, 1, 2, max_position_embeddings=64)), letters)
    write_folder(read_model(path), folder / "made")
    files = {file.name: file.read_bytes() for file in (folder / "made").iterdir()}
    if layout != "model.safetensors":
        (folder / "made" / "model.safetensors").unlink()
        weights = pytest.importorskip("safetensors.torch").load(files.pop("model.safetensors"))
        for name, content in in_layout(weights, layout):
            toys.write_all(folder / "made", {name: content})
            files[name] = content
    return files


def in_layout(weights, layout):
    """(name, content) of the files that hold these weights, in parts where the layout is an index."""
    write = pytest.importorskip("safetensors.torch").save if "safetensors" in layout else as_torch_saves
    if not layout.endswith(".index.json"):
        return [(layout, write(weights))]
    stem, ending = layout.removesuffix(".index.json").split(".")
    halves = list(weights)[:9], list(weights)[9:]
    parts = {f"{stem}-0000{number}-of-00002.{ending}": names for number, names in enumerate(halves, 1)}
    index = {"weight_map": {name: part for part, names in parts.items() for name in names}}
    return [(layout, json.dumps(index).encode()),
            *((part, write({name: weights[name] for name in names})) for part, names in parts.items())]  # fmt: skip


def as_torch_saves(weights):
    stream = io.BytesIO()
    torch.save(weights, stream)
    return stream.getvalue()
