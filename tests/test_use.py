"""What trained models are asked to do without training: words for masks, and whether a text follows another."""

import json

import pytest
import toys

import mlm_task
from files.mistakes import UserError


def test_a_mask_in_a_text_becomes_the_mask_token():
    tokenizer = toys.letters()
    row = mlm_task.masked_row("[MASK] cat sat on the [MASK].", tokenizer, 12, False, "here")[0].tolist()
    words = tokenizer.encode("cat sat on the").ids
    mask, (dot,) = tokenizer.mask_id, tokenizer.encode(".").ids
    assert row == [tokenizer.cls_id, mask, *words, mask, dot]


@pytest.mark.parametrize(("text", "reason"), [("the cat", "no \\[MASK\\]"), ("the [MASK] cat on", "5 tokens.* most 4")])
def test_a_text_without_a_mask_or_too_long_is_refused(text, reason):
    with pytest.raises(UserError, match=f"lines.txt, line 3: {reason}"):
        mlm_task.masked_row(text, toys.letters(), 4, False, "lines.txt, line 3")


def test_fill_prints_the_words_that_predict_writes(trained, run, tmp_path):
    model, text = f"--bert-model {trained}/mlm_bert.pt", "Then [MASK] went to the [MASK] ."
    (tmp_path / "lines.txt").write_text(f"{text}\n\nThe [MASK] .\n")
    run("mlm", f"--predict lines.txt --output out.json --top-k 3 {model}")
    entries = json.loads((tmp_path / "out.json").read_text())
    assert [(entry["text"], len(entry["masks"])) for entry in entries] == [(text, 2), ("The [MASK] .", 1)]
    for words in (words for entry in entries for words in entry["masks"]):
        shares = [guess["probability"] for guess in words]
        assert len(shares) == 3 and shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
    (tmp_path / "one.txt").write_text("[MASK]")
    printed = run("mlm", f"--fill [MASK] --top-k 2 {model}").stdout.splitlines()[-3:]
    run("mlm", f"--predict one.txt --output one.json --top-k 2 {model}")
    (words,) = json.loads((tmp_path / "one.json").read_text())[0]["masks"]
    assert printed == ["[MASK] 1", *(f"  {guess['probability']:.3f}  {guess['word']}" for guess in words)]


def test_next_sentence_probabilities_do_not_depend_on_the_other_lines(trained, run, tmp_path):
    model = f"--bert-model {trained}/ns_bert.pt --precision fp32"
    pairs = [("Anna went home.", "She slept."), ("A " * 200, "B " * 200), ("It rained.", "Ben read a book.")]
    (tmp_path / "pairs.tsv").write_text("".join(f"{first}\t{second}\n" for first, second in pairs))
    (tmp_path / "last.tsv").write_text("\t".join(pairs[-1]))
    run("ns", f"--predict pairs.tsv --output out.json {model}")
    run("ns", f"--predict last.tsv --output last.json {model}")
    found = json.loads((tmp_path / "out.json").read_text())
    assert [(entry["first"], entry["second"]) for entry in found] == pairs
    assert all(0 < entry["probability"] < 1 for entry in found)
    last = json.loads((tmp_path / "last.json").read_text())
    assert found[-1]["probability"] == pytest.approx(last[0]["probability"], abs=1e-6)


def test_a_line_without_two_texts_is_named(trained, run, tmp_path):
    (tmp_path / "pairs.tsv").write_text("one\ttwo\nonly one\n")
    error = run("ns", f"--predict pairs.tsv --bert-model {trained}/ns_bert.pt", code=2).stderr
    assert error == "error: pairs.tsv, line 2: not two texts with one tab between them; write FIRST<tab>SECOND\n"


@pytest.mark.parametrize("task", ["mlm", "ns"])
def test_a_file_without_text_is_a_mistake_and_no_empty_answer(trained, run, tmp_path, task):
    (tmp_path / "blank.txt").write_text("\n  \n")
    error = run(task, f"--predict blank.txt --output out.json --bert-model {trained}/{task}_bert.pt", code=2).stderr
    assert error.startswith("error: blank.txt: no text in it; write ") and not (tmp_path / "out.json").exists()
