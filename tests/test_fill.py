"""A text with [MASK] reaches the model as such a text did in training: a block with one token hidden."""

import numpy as np
import pytest
import torch
import toys

import demo
import mlm_task
import utils
from checkpoint import load_model
from model import BertConfig, MLMTask
from text import sample
from text.batches import EVALUATION
from text.masked_blocks import MaskedBlocks
from text.vocabularies import train_tokenizer
from training.ranks import Ranks

TEXTS = [
    'She said: "Nobody went to the garden." Then, of course, the others\' dog sat on 12 mats!',
    "The well-known house (red, not blue) isn\'t where the cat sat; is it?",
    "Rewriting unhappily overgrown gardens of Zoë\'s... who knows?",
]


@pytest.fixture(scope="module", params=["sentencepiece", "wordpiece", "basic_english"])
def tokenizer(request):
    if request.param == "wordpiece":
        return toys.letters()
    lines = [story.text for story in sample.stories("train", 200, "text")] + TEXTS * 3
    return train_tokenizer(request.param, lines, 500)


@pytest.mark.parametrize("text", TEXTS)
def test_every_token_hidden_by_a_mask_leaves_the_others_as_they_were(tokenizer, text):
    encoding, hidden = tokenizer.encode(text), 0
    for number, (start, end) in enumerate(encoding.offsets):
        if any(first < end and start < last for at, (first, last) in enumerate(encoding.offsets) if at != number):
            continue  # it shares a letter with a token beside it, which a text with [MASK] cannot say
        if not text[start:end].isalnum():
            continue  # what follows is read as following a word
        ids = [*encoding.ids[:number], tokenizer.mask_id, *encoding.ids[number + 1 :]]
        row = mlm_task.masked_row(f"{text[:start]}[MASK]{text[end:]}", tokenizer, 500, False, "here")
        assert row[0].tolist() == [tokenizer.cls_id, *ids], (text[:start], text[end:])
        hidden += 1
    assert hidden > 8


def test_a_row_to_fill_is_laid_out_as_a_block_of_training():
    tokenizer = toys.letters()
    ids = tokenizer.encode("the cat sat on the red mat").ids
    corpus = toys.corpus([len(ids)])
    corpus.tokens = np.array(ids)
    batch = MaskedBlocks(corpus, tokenizer, len(ids) + 1, 0).collate([0], EVALUATION)
    block = batch["input_ids"].clone()
    block[batch["positions"]] = batch["labels"]
    row = mlm_task.masked_row("the cat sat on the [MASK] mat", tokenizer, 99, False, "here")
    assert row.shape == block.shape and (row != block)[0].nonzero()[:, 0].tolist() == [6]


def test_masks_side_by_side_and_within_a_word_are_all_kept(tokenizer):
    row = mlm_task.masked_row("un[MASK][MASK]s, [MASK] [MASK].", tokenizer, 99, False, "here")[0]
    assert (row == tokenizer.mask_id).sum() == 4


def test_a_bert_of_a_hugging_face_folder_is_shown_the_final_sep_that_it_was_trained_with(tmp_path, capsys):
    from their_models import LETTERS, save, theirs  # skips without transformers

    model = theirs("bert", "ForMaskedLM")
    folder, text = save(model, tmp_path / "bert"), "the cat sat on the [MASK] mat."
    ids = LETTERS.encode(text.replace("[MASK]", "red")).ids
    ids[ids.index(LETTERS.tokens.index("red"))] = LETTERS.mask_id
    ids = torch.tensor([[LETTERS.cls_id, *ids, LETTERS.sep_id]])
    shares, words = model(ids).logits[ids == LETTERS.mask_id].softmax(-1)[0].topk(5)
    expected = [(LETTERS.decode([word]), pytest.approx(share, abs=1e-5)) for word, share in zip(
        words.tolist(), shares.tolist(), strict=True)]  # fmt: skip

    (loaded,) = demo.load(folder, "fp32", Ranks())
    (guesses,) = demo.fill_masks(loaded, {"text": text})["masks"]
    assert [(guess["word"], guess["probability"]) for guess in guesses] == expected
    capsys.readouterr()
    mlm_task.run(mlm_task.arguments(["--fill", text, "--bert-model", str(folder), "--precision", "fp32"]), Ranks())
    assert [line[9:] for line in capsys.readouterr().out.splitlines()[-5:]] == [word for word, _ in expected]


@pytest.mark.parametrize("folder", [True, False])
def test_the_layout_of_a_row_is_that_of_the_models_training(tmp_path, folder):
    path = tmp_path if folder else tmp_path / "mlm.pt"
    model = MLMTask(BertConfig(20, 16, 1, 2, max_position_embeddings=512))
    args = mlm_task.arguments(["--fill", "[MASK]", "--bert-model", str(path)])
    assert mlm_task.layout(args, model) == ((512, True) if folder else (128, False))
    args.bptt = 64
    assert mlm_task.layout(args, model) == (64, folder)


def test_a_bert_of_a_hugging_face_folder_is_asked_alike_as_a_file_of_ours(tmp_path, run_script):
    from their_models import save, theirs  # skips without transformers

    save(theirs("bert", "ForMaskedLM"), tmp_path / "bert")
    run_script("checkpoint.py", "save-as", "bert", "mlm.pt", "--precision", "bf16")
    layouts = []
    for name in ("bert", "mlm.pt"):
        args = mlm_task.arguments(["--fill", "[MASK]", "--bert-model", str(tmp_path / name)])
        layouts.append(mlm_task.layout(args, load_model(MLMTask, tmp_path / name)[0]))
    assert layouts[0] == layouts[1] == (layouts[0][0], True)


def test_rows_of_the_matrix_beyond_the_vocabulary_are_no_words():
    tokenizer = toys.letters()
    model = MLMTask(BertConfig(len(tokenizer) + 6, 16, 1, 2)).eval()
    row = mlm_task.masked_row("the [MASK] sat", tokenizer, 99, False, "here")
    compute = utils.Computer(mlm_task.arguments(["--precision", "fp32"]), Ranks())
    (words,) = mlm_task.likeliest(model, tokenizer, row, compute, 10_000)
    assert len(words) == len(tokenizer) and sum(word["probability"] for word in words) == pytest.approx(1)
