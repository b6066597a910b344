"""Our models as folders for transformers: the same numbers there, and back; whole or not at all."""

import json

import pytest
import torch
from their_models import LETTERS, TEXT, V, agree, batch, every_head, ours, safetensors_torch, save, theirs, transformers

from checkpoint import load_model, read_model, save_model
from files.mistakes import UserError
from formats import huggingface
from formats.huggingface import write_folder
from model import MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask
from text import subwords
from text.piece_models import sentencepiece_pieces
from text.tokenizer import Tokenizer
from text.vocabularies import sentencepiece, train_tokenizer

AUTO = {MLMTask: transformers.AutoModelForMaskedLM, NextSentenceTask: transformers.AutoModelForNextSentencePrediction,
        QuestionAnswerTask: transformers.AutoModelForQuestionAnswering,
        RaceTask: transformers.AutoModelForMultipleChoice}  # fmt: skip
KINDS = {"bert": {}, "megatron-bert": dict(norm_first=True), "albert": dict(share_layers=True, embedding_size=20),
         "albert, wide": dict(share_layers=True), "albert, a layer each": dict(embedding_size=20),
         "bert, untied": dict(tie_word_embeddings=False),
         "megatron-bert, untied": dict(norm_first=True, tie_word_embeddings=False),
         "albert, untied": dict(share_layers=True, embedding_size=20, tie_word_embeddings=False)}  # fmt: skip


def exported(made, folder, run_script, tokenizer=LETTERS):
    save_model(folder / "model.pt", made, tokenizer, {})
    output = run_script("checkpoint.py", "export", folder / "model.pt", folder / "out").stdout
    return folder / "out", output


def test_how_much_was_read_at_once_in_training_leaves_and_comes_back(tmp_path):
    """Else other software would read on to positions that are untrained."""
    save_model(tmp_path / "model.pt", ours(MLMTask), LETTERS, {"bptt": 16})
    write_folder(read_model(tmp_path / "model.pt"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 16
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 16
    assert load_model(MLMTask, tmp_path / "out")[0].notes == {"longest": 16}


@every_head
@pytest.mark.parametrize("kind", KINDS)
def test_what_leaves_gives_the_same_logits_in_transformers(kind, head, tmp_path):
    made = ours(head, hidden_act="gelu_new", layer_norm_eps=1e-6, **KINDS[kind])
    save_model(tmp_path / "model.pt", made, LETTERS)
    folder = tmp_path / "out"
    assert write_folder(read_model(tmp_path / "model.pt"), folder) == []
    is_albert = kind.startswith("albert")
    auto = transformers.AlbertForPreTraining if is_albert and head is NextSentenceTask else AUTO[head]
    other, report = auto.from_pretrained(folder, output_loading_info=True)
    new = [name for name in report["missing_keys"] if not name.startswith("predictions.")]
    assert new == [] and report["unexpected_keys"] == []
    assert other.config.model_type == kind.split(",")[0]
    agree(made, other.eval(), head)
    body = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = batch(MLMTask)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        torch.testing.assert_close(made.bert(**inputs)[real], body(**inputs)[0][real], atol=1e-5, rtol=0)
    back, tokenizer = load_model(head, folder)
    assert tokenizer.fingerprint == LETTERS.fingerprint
    weights = {name: weight for name, weight in back.state_dict().items() if "project" not in name or "wide" not in kind}
    assert weights.keys() == made.state_dict().keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in made.state_dict().items())


def test_that_nobody_marks_words_there_is_told(tmp_path):
    model = ours(QuestionAnswerTask)
    model.bert.extend_types(3)
    save_model(tmp_path / "model.pt", model, LETTERS, {"marks": "question"})
    (line,) = write_folder(read_model(tmp_path / "model.pt"), tmp_path / "out")
    assert line.startswith("words of the question are marked here by token type 2, which no tokenizer gives there")
    other = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "out").eval()
    assert other.config.type_vocab_size == 3
    agree(model.eval(), other, QuestionAnswerTask)


def test_the_tokenizer_that_leaves_is_read_by_transformers(tmp_path, run_script):
    cased = Tokenizer("wordpiece", LETTERS.tokens, LETTERS.specials, lowercase=False)
    for number, tokenizer in enumerate((LETTERS, cased)):
        (tmp_path / str(number)).mkdir()
        folder, _ = exported(ours(RaceTask), tmp_path / str(number), run_script, tokenizer)
        other = transformers.AutoTokenizer.from_pretrained(folder)
        text = "The cat, a Dog; ünd"
        assert other(text, add_special_tokens=False)["input_ids"] == tokenizer.encode_ids(text)
        assert other.cls_token_id == tokenizer.cls_id and other.mask_token_id == tokenizer.mask_id


@pytest.mark.parametrize("size", [70, 2_000], ids=["unigram", "bpe"])  # of so few words, only pairs make as many pieces
def test_a_vocabulary_of_our_own_leaves_with_its_ids(size, tmp_path, run_script):
    tokenizer = train_tokenizer("sentencepiece", TEXT, size)
    made = ours(RaceTask, vocab_size=len(tokenizer))
    folder, output = exported(made, tmp_path, run_script, tokenizer)
    assert "note:" not in output
    plain = "the cat has 9 things"
    for text in (plain, "The  caf\u00e9, \uff21\u00a0dog.\n\u2026 \U0001f600 sat_down", " ", ""):
        other = transformers.AutoTokenizer.from_pretrained(folder)
        ids, dog, pair = tokenizer.encode_ids(text), tokenizer.encode_ids("the dog"), other(text, "the dog")
        assert len(other) == len(tokenizer) and other(text, add_special_tokens=False)["input_ids"] == ids
        assert pair["input_ids"] == [tokenizer.cls_id, *ids, tokenizer.sep_id, *dog, tokenizer.sep_id]
        assert pair["token_type_ids"] == [0] * (len(ids) + 2) + [1] * (len(dog) + 1)
    assert (other.pad_token_id, other.mask_token_id) == (tokenizer.pad_id, tokenizer.mask_id)
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_input_names"][1] == "token_type_ids"  # v5 asks
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode
    model = (folder / "spiece.model").read_bytes()
    ids = {piece: number for number, (piece, _) in enumerate(sentencepiece_pieces(model))}
    assert [ids[piece] for piece in subwords.encoder(model)(plain)] == tokenizer.encode_ids(plain)
    back = load_model(RaceTask, folder)[1]
    assert back.tokens == tokenizer.tokens and back.specials == tokenizer.specials
    assert back.encode_ids(f"The {plain}") == tokenizer.encode_ids(f"The {plain}")


def test_a_vocabulary_with_a_users_own_pieces_leaves_with_its_ids(tmp_path, run_script):
    """As ALBERT's authors train theirs: a file for AlbertTokenizer, whose special tokens are others."""
    trained = train_tokenizer("sentencepiece", TEXT, 70).model
    own = bytes([1 << 3 | 2, len(b"own")]) + b"own" + bytes([3 << 3, 4])  # text, and type 4: a user's
    tokenizer = sentencepiece(trained + bytes([1 << 3 | 2, len(own)]) + own)
    folder, output = exported(ours(RaceTask, vocab_size=len(tokenizer)), tmp_path, run_script, tokenizer)
    assert "meant for transformers' AlbertTokenizer" in output and not (folder / "tokenizer.json").exists()
    other = transformers.AutoTokenizer.from_pretrained(folder, use_fast=False)
    assert len(other) == len(tokenizer) and "use_fast=False" in output
    for text in ("the cat has 9 things", "own it, owner", "the \U0001f600"):
        ids = tokenizer.encode_ids(text)
        assert other(text)["input_ids"] == [tokenizer.cls_id, *ids, tokenizer.sep_id]
    assert tokenizer.unk_id in ids and load_model(RaceTask, folder)[1].encode_ids(text) == ids


def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*_):
        raise SafetensorError("Error while serializing: No space left on device")

    monkeypatch.setattr(safetensors_torch, "save_file", full)
    save_model(tmp_path / "model.pt", ours(RaceTask), LETTERS)
    with pytest.raises(UserError, match=r"out: cannot be written \(.*No space left on device"):
        write_folder(read_model(tmp_path / "model.pt"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_damaged_vocabulary_of_our_own_does_not_leave(tmp_path):
    made = train_tokenizer("sentencepiece", TEXT, 70)
    damaged = Tokenizer(made.kind, made.tokens, made.specials, made.lowercase, made.model[:4000])
    save_model(tmp_path / "model.pt", ours(RaceTask, vocab_size=len(made)), damaged)
    with pytest.raises(UserError, match=r"the vocabulary's SentencePiece model is damaged \("):
        write_folder(read_model(tmp_path / "model.pt"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_an_alberts_own_vocabulary_leaves_as_it_came(albert, spiece, tmp_path):
    content = read_model(albert)
    write_folder(content, tmp_path / "out")
    assert (tmp_path / "out" / "spiece.model").read_bytes() == spiece
    back, tokenizer = load_model(RaceTask, tmp_path / "out")
    assert tokenizer.fingerprint == Tokenizer.from_state(content["tokenizer"]).fingerprint
    assert all(torch.equal(weight, content["body"][name]) for name, weight in back.bert.state_dict().items())


def test_a_vocabulary_of_words_leaves_with_a_word_on_what_differs(tmp_path, run_script):
    tokenizer = train_tokenizer("basic_english", TEXT, 40)
    folder, output = exported(ours(RaceTask, vocab_size=len(tokenizer)), tmp_path, run_script, tokenizer)
    assert "note: vocab.txt holds whole words" in output
    other = transformers.AutoTokenizer.from_pretrained(folder)
    text = "The cat said nonsense"
    assert other(text, add_special_tokens=False)["input_ids"] == tokenizer.encode_ids(text)
    assert load_model(RaceTask, folder)[1].fingerprint == tokenizer.fingerprint


def test_an_export_is_whole_or_not_there_and_never_overwrites(tmp_path, run_script, monkeypatch):
    made = ours(RaceTask)
    folder, _ = exported(made, tmp_path, run_script)
    names = {"config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"}
    assert {file.name for file in folder.iterdir()} == names
    error = run_script("checkpoint.py", "export", tmp_path / "model.pt", folder, code=2).stderr
    assert "exists already" in error and error.count("\n") == 1
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    run_script("checkpoint.py", "export", tmp_path / "model.pt", tmp_path / "link")
    assert {file.name for file in (tmp_path / "empty").iterdir()} == names
    monkeypatch.setattr(huggingface, "write_tokenizer", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        huggingface.write_folder(read_model(tmp_path / "model.pt"), tmp_path / "half")
    assert {file.name for file in tmp_path.iterdir()} == {"model.pt", "out", "empty", "link"}


@pytest.mark.parametrize("changes", [dict(share_layers=True), dict(embedding_size=20)])
def test_what_transformers_has_no_network_for_does_not_leave(changes, tmp_path, run_script):
    save_model(tmp_path / "model.pt", ours(RaceTask, norm_first=True, **changes), LETTERS)
    error = run_script("checkpoint.py", "export", tmp_path / "model.pt", tmp_path / "out", code=2).stderr
    assert "pre-norm" in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_show_tells_what_a_folder_holds(tmp_path, run_script):
    save(theirs("bert", "ForPreTraining"), tmp_path)
    output = run_script("checkpoint.py", "show", tmp_path).stdout
    for word in ("MLMTask and NextSentenceTask", "layer_norm_eps=1e-12", f"wordpiece, {V} tokens", "[96, 32]"):
        assert word in output


@pytest.mark.slow
def test_an_albert_is_pretrained_here_and_leaves_for_transformers(run_script, tmp_path):
    run_script("mlm_task.py", "--share-layers", "--embedding-size", 16, "--emsize", 32, "--nhead", 2, "--nlayers", 3,
               "--steps", 2, "--bptt", 32, "--batch_size", 4, "--valid-examples", 4)  # fmt: skip
    run_script("checkpoint.py", "export", "mlm_bert.pt", "folder")
    model, tokenizer = load_model(MLMTask, tmp_path / "mlm_bert.pt")
    other = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "folder").eval()
    ids = torch.tensor([[tokenizer.cls_id, *tokenizer.encode_ids("Anna goes to the house."), tokenizer.sep_id]])
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids), other(ids).logits, atol=1e-5, rtol=0)
