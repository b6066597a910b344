"""Try trained models on a local page: ask a passage, fill masks, choose among options.

    python demo.py                                          # the models that the tasks saved here, else the shipped ones
    python demo.py --bert-model qa_model.pt other/qa_model.pt mlm_bert.pt    # several, side by side
    python demo.py --port 0                                 # a free port, which the line printed at the start names

What a model does is read from its file (or Hugging Face folder, or what the hub has of its name). Ctrl-C ends the server,
with exit code 0. Design choices:

- Python's own http.server and one page, demo.html. Not Gradio: a hundred packages for one page, and none without network.
- The answers are those of --ask and --fill: the same functions of the task scripts give the figures.
- Only this machine can reach it, unless --host says otherwise. A page from elsewhere in the same browser cannot use it:
  the Host must be an address or a name of this machine (DNS rebinding), and questions are JSON from our own page (CSRF).
- A text is data everywhere: bounded in size here, put into the page as text and never as HTML, and the page's policy
  lets no script run but its own.
"""

import base64
import contextlib
import hashlib
import ipaddress
import json
import re
import socket
import socketserver
import sys
import threading
import time
import traceback
from argparse import Namespace
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import checkpoint
import mlm_task
import qa_task
import race_task
import utils
from files.mistakes import TOLD, UserError, run_main, warn
from files.pretrained import resolved, shipped
from files.reading import read_text
from metrics import LETTERS
from model import MLMTask, QuestionAnswerTask, RaceTask
from text import sample
from text.tokens import unknown_to
from training import flags
from training.parser import Parser
from training.ranks import Ranks, local_device, precision_of, settle

BODY = 1 << 19  # bytes of a request at most
LIMITS = {"passage": 50_000, "text": 10_000, "question": 1_000, "option": 1_000}  # characters
WAIT = 60  # seconds for a model that is busy with other questions
ENDING = 10  # the same after Ctrl-C
ENDED = threading.Event()  # by Ctrl-C: what waits for a model then is not begun
PAGE = Path(__file__).with_name("demo.html")
ENGINE = Path(__file__).parent / "docs" / "engine.txt"  # what the README asks, too
MODELS = ("mlm_bert.pt", "qa_model.pt", "race_model.pt")  # where none is named


def arguments():
    p = Parser(__doc__)
    p.flag("bert-model", "model files, Hugging Face folders, names on the hub; pretrained: those that come with the suite "
           f"(default: {', '.join(MODELS)}, where they exist, else pretrained)", nargs="+")  # fmt: skip
    p.flag("host", "the address to listen at; 0.0.0.0 lets other machines in", default="127.0.0.1")
    p.flag("port", "the port to listen at; 0 for any that is free", type=flags.natural, default=8000)
    p.flag("save-vocab", "the vocabulary of a file of torchtext's BERT example", default="bert_vocab.pt")
    p.flag("nhead", "its number of attention heads, where they are not 64 wide", type=flags.positive(int))
    p.flag("precision", "auto: bf16 where the hardware multiplies it fast", default="auto",
           choices=flags.PRECISIONS)
    args = p.parse_args()
    args.named = bool(args.bert_model)
    if args.bert_model:
        args.bert_model = resolved(args.bert_model, *MODELS)
    else:
        args.bert_model = [name for name in MODELS if Path(name).exists()]
    if not args.bert_model and (found := shipped(*MODELS)):
        warn("no model here: taking the pretrained ones that come with the suite", word="note")
        args.bert_model = found
    if not args.bert_model:
        raise UserError("no model here; train one (python mlm_task.py), or name one with --bert-model FILE")
    return args


# --------------------------------------------------------------------------------------------------------------------
# Models: each answers what its head is for
# --------------------------------------------------------------------------------------------------------------------


@dataclass
class Loaded:
    """A model that answers; ``lock`` is held while it does."""

    name: str
    kind: str  # a key of KINDS
    args: Any  # those of its task script
    model: Any
    tokenizer: Any
    ranks: Ranks
    lock: Any = field(default_factory=threading.Lock)

    def about(self):
        config = self.model.bert.config
        sizes = f"{config.num_hidden_layers} layers of {config.hidden_size}, {len(self.tokenizer):,} tokens"
        return {"name": self.name, "kind": self.kind, "sizes": sizes}

    def answer(self, request):
        if not self.lock.acquire(timeout=WAIT):
            raise Refused(503, f"{self.name} is busy with other questions; try again later")
        try:
            if ENDED.is_set():
                raise Refused(503, "the server has been ended")
            return KINDS[self.kind][2](self, request)
        finally:
            self.lock.release()


def answer_question(loaded, request):
    passage, question = text_of(request, "passage"), text_of(request, "question")
    return qa_task.answer(loaded.args, loaded.ranks, [(loaded.model, loaded.tokenizer)], passage, question)


def fill_masks(loaded, request):
    text, layout = text_of(request, "text"), mlm_task.layout(loaded.args, loaded.model)
    row = mlm_task.masked_row(text, loaded.tokenizer, *layout, "the text")
    compute = utils.Computer(loaded.args, loaded.ranks)
    return {"masks": mlm_task.likeliest(loaded.model, loaded.tokenizer, row, compute, loaded.args.top_k)}


def choose_option(loaded, request):
    passage, question, options = text_of(request, "passage"), text_of(request, "question"), request.get("options")
    if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
        raise Refused(400, f"options: a list of 2 to {len(LETTERS)} texts is needed")
    options = [text_of({"option": option}, "option", f"option {letter}")
               for letter, option in zip(LETTERS, options, strict=False)]  # fmt: skip
    shares = race_task.choose(loaded.args, loaded.ranks, [(loaded.model, loaded.tokenizer)], passage, question, options)
    return {"probabilities": shares}


KINDS = {  # the head of a task, its script, and how it answers
    "qa": (QuestionAnswerTask, qa_task, answer_question),
    "mlm": (MLMTask, mlm_task, fill_masks),
    "race": (RaceTask, race_task, choose_option),
}


def load(path, precision, ranks, vocab="bert_vocab.pt", heads=None):
    """The models in ``path``, one for each head that answers. Raises UserError where there is none.

    ``vocab`` and ``heads`` are of torchtext's BERT example, as --save-vocab and --nhead of the tasks.
    """
    content = checkpoint.read_model(path, vocab=vocab, heads=heads)
    kinds = [kind for kind, (cls, _, _) in KINDS.items() if cls.__name__ in content["heads"]]
    if not kinds:
        found = " and ".join(content["heads"]) or "a body without a head"
        raise UserError(f"{path}: holds {found}; name a model of mlm_task.py, qa_task.py or race_task.py")
    loaded = []
    for kind in kinds:
        cls, script, _ = KINDS[kind]
        args = script.arguments(["--bert-model", str(path), "--evaluate", "--precision", precision, "--save-vocab", vocab,
                                 *(["--nhead", str(heads)] if heads else [])])  # fmt: skip
        precision_of(args, ranks)  # a mistake there is told before the page is open
        model, tokenizer = flags.trained_models(cls, args, script.READING)[0]
        TOLD.add(unknown_to(tokenizer))  # such a warning has a word of what was asked
        loaded.append(Loaded(str(path), kind, args, model.to(ranks.device).eval(), tokenizer, ranks))
    return loaded


def load_all(args, ranks):
    """The models of --bert-model; of those that just lie here the ones that can be used."""
    found = [loaded_or_not(path, args, ranks) for path in dict.fromkeys(args.bert_model)]
    models, wrong = [model for good, _ in found for model in good], [error for _, error in found if error]
    if wrong and (args.named or not models):
        raise wrong[0]
    for error in wrong:
        warn(f"{error}; going on without it")
    return models


def loaded_or_not(path, args, ranks):
    """(the models in ``path``, what is wrong with it or None)"""
    try:
        return load(path, args.precision, ranks, args.save_vocab, args.nhead), None
    except UserError as error:
        return [], error


def examples(models):
    """What the page shows first: for each kind, what its request holds.

    For the models that come with the suite a text such as they learned to read, else the embedded data set's test stories.
    """
    if ENGINE.is_file() and {model.name for model in models} & set(shipped(*MODELS)):
        asked = {"passage": read_text(ENGINE), "question": "Who designed the Analytical Engine?"}
        people = ["Ada Lovelace", "Charles Babbage", "Lord Byron", "Alan Turing"]
        return {"qa": asked, "mlm": {"text": "She was born in New [MASK] in 1950."}, "race": {**asked, "options": people}}
    asked, chosen, told = (next(sample.stories("test", 1, purpose)) for purpose in ("squad", "race", "text"))
    kind, person = chosen.pairs[0]
    word = told.facts[told.pairs[0][0]][told.pairs[0][1]]
    return {
        "qa": {"passage": asked.text, "question": asked.question(*asked.pairs[0], ask_who=False)},
        "mlm": {"text": re.sub(rf"(?s)(.*)\b{word}\b", r"\1[MASK]", told.text)},  # where it is told last
        "race": {"passage": chosen.text, "question": chosen.question(kind, person, ask_who=True),
                 "options": sorted(chosen.people)},
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------------------------
# The server
# --------------------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """A request that is not answered: the HTTP status and a line for the page."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def text_of(request, name, called=None):
    """A text of the request: there, not blank, not too long, and writable as UTF-8 (no half of a surrogate pair)."""
    text, called = request.get(name), called or name
    if not isinstance(text, str) or not text.strip():
        raise Refused(400, f"{called}: empty; write a text")
    if len(text) > LIMITS[name]:
        raise Refused(400, f"{called}: {len(text):,} characters; {LIMITS[name]:,} are allowed, shorten it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(400, f"{called}: holds half of a character (a lone surrogate); take it out") from None
    return text


def policy(page):
    """The page's Content-Security-Policy: its own script and style by their hashes, and answers from this server."""

    def allowed(tag):
        inner = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        return f"'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'"

    return (f"default-src 'none'; script-src {allowed('script')}; style-src {allowed('style')}; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")  # fmt: skip


class Server(ThreadingHTTPServer):
    """Serves the page and the answers of ``models``; its ``server_address`` says where."""

    def __init__(self, host, port, models):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.models, page = models, read_text(PAGE).replace("\r\n", "\n")  # as browsers take it, of any checkout
        start = {"models": [model.about() for model in models], "examples": examples(models)}
        self.pages = {"/": ("text/html", page.encode()), "/models": ("application/json", json.dumps(start).encode())}
        self.policy, self.names = policy(page), {"localhost", host.lower(), socket.gethostname().lower()}
        super().__init__((host, port), Handler)

    def server_bind(self):
        """Without HTTPServer's look-up of the host's full name, which may wait for a name server."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request, client_address):
        """A browser that went away is no fault."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """GET / and /models; POST /answer, {"model": its number, and what its kind needs}, gives the figures or {"error"}. With
    its name and kind as well, it is refused where another model has that number by now."""

    server_version, sys_version = "demo", ""
    timeout = 30  # seconds without a byte

    def do_GET(self):
        def page():
            self.check_host()
            found = self.server.pages.get(self.path)
            if not found:
                raise Refused(404, "no such page; open /")
            return found

        self.reply(page)

    def do_POST(self):
        def answer():
            body = self.body()
            self.check_host()
            self.check_own_page()
            if self.path != "/answer":
                raise Refused(404, "no such page; questions go to /answer")
            if body is None:
                raise Refused(413, f"the request is too large; {BODY:,} bytes are allowed, shorten the text")
            request = parsed(body)
            number = request.get("model")
            if type(number) is not int or not 0 <= number < len(self.server.models):
                raise Refused(400, f"model: must be a number from 0 to {len(self.server.models) - 1}")
            model = self.server.models[number]
            if any(request.get(what, getattr(model, what)) != getattr(model, what) for what in ("name", "kind")):
                raise Refused(409, "the server was started anew with other models; load this page again")
            return "application/json", json.dumps(model.answer(request), allow_nan=False).encode()

        self.reply(answer)

    def body(self):
        """The bytes of a request, None where they are too many. They are read in any case, lest the reply get lost."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,15}", length):
            raise Refused(411, "Content-Length: not given; send it")
        length = int(length)
        if length <= BODY:
            return self.rfile.read(length)
        left = min(length, 64 * BODY)
        while left > 0 and (part := self.rfile.read(min(left, BODY))):
            left -= len(part)
        return None

    def check_host(self):
        """A page of another site that has its name resolved to our address still names itself as the host."""
        host = self.headers.get("Host", "")
        with contextlib.suppress(ValueError):
            name = urlsplit(f"//{host}").hostname or ""
            if name in self.server.names:
                return
            ipaddress.ip_address(name)
            return
        raise Refused(403, "Host: not a name of this server; open the address that it printed at the start")

    def check_own_page(self):
        """Another site's page can send a form or plain text here, but no JSON, and its origin tells on it."""
        origin = self.headers.get("Origin")
        if origin is not None and origin.partition("://")[2] != self.headers.get("Host"):
            raise Refused(403, "Origin: a page of another site; use the page of this server")
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "Content-Type: must be application/json")

    def reply(self, make):
        """Send what ``make`` gives, (type, bytes), or the reason why there is none as JSON."""
        try:
            status, (kind, content) = 200, make()
        except Refused as error:
            status, kind, content = error.status, "application/json", message(error)
        except UserError as error:
            status, kind, content = 400, "application/json", message(error)
        except (ConnectionError, TimeoutError):
            raise  # nobody is left to reply to
        except Exception:
            traceback.print_exc()
            fault = "a fault of the program; what went wrong stands where it was started"
            status, kind, content = 500, "application/json", message(fault)
        self.send_response(status)
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(content)), "Cache-Control": "no-store",
            "Content-Security-Policy": self.server.policy, "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Nothing: what people ask is theirs."""


def message(error):
    return json.dumps({"error": str(error)}).encode()


def parsed(body):
    """The JSON object of a request."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):  # not UTF-8 is a ValueError, too
        raise Refused(400, "the request is not JSON") from None
    if not isinstance(request, dict):
        raise Refused(400, "the request is not a JSON object")
    return request


def main():
    args = arguments()
    ranks = Ranks(device=local_device(0))
    settle(Namespace(precision=args.precision, deterministic=False), ranks.device)
    models = load_all(args, ranks)
    try:
        server = Server(args.host, args.port, models)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {args.host} --port {args.port}: cannot listen there ({reason}); choose another") from None
    host, port = server.server_address[:2]
    with server, contextlib.suppress(KeyboardInterrupt):
        for model in models:
            print(f"{model.name}: {model.kind}, {model.about()['sizes']}")
        if not ipaddress.ip_address(host).is_loopback:
            print("other machines can reach it; anybody who does can use it")
        if ipaddress.ip_address(host).is_unspecified:  # no address to open
            host = socket.gethostname()
        host = f"[{host}]" if ":" in host else host
        print(f"open http://{host}:{port}/ in a browser; Ctrl-C ends the server", flush=True)
        server.serve_forever()
    ENDED.set()
    until = time.monotonic() + ENDING
    with contextlib.suppress(KeyboardInterrupt):
        for model in models:  # whose answer may be on its way: a thread in torch's code as Python ends may abort it
            model.lock.acquire(timeout=max(0.0, until - time.monotonic()))
    return 0


if __name__ == "__main__":
    run_main(main)
