"""How a model reads is kept in its file: who uses it reads as it does, unless a flag says otherwise."""

import json
import math
import random
import sys
from types import SimpleNamespace

import pytest
import torch
import toys
from toys import refused, write_articles

import demo
import mlm_task
import ns_task
import qa_task
import race_task
import utils
from checkpoint import read_model, save_model
from files.mistakes import UserError
from formats.huggingface import write_folder
from model import BertConfig, MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask
from text import sentences
from text.answers import logit
from text.option_rows import Joint
from text.places import Places
from training import flags, states
from training.ranks import Ranks

SCRIPTS = {"mlm": mlm_task, "ns": ns_task, "qa": qa_task, "race": race_task}
TRAIN = "--bert-model none --nlayers 1 --emsize 32 --nhead 2 --steps 1 --vocab vocab.txt --tokenizer wordpiece"
WAYS = {"mlm": "--bptt 16", "ns": "--bptt 24 --objective sop", "qa": "--bptt 32 --stride 7 --marks question",
        "race": "--bptt 48 --passage select --layout joint --marks question --sentences de"}  # fmt: skip
LETTERS, SQUAD, ARTICLES = toys.letters(), toys.squad(contexts=3, words=60), toys.articles(count=3, words=90)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """``call("qa", flags)`` runs qa_task.py with these flags in a folder of toy data; gives what it printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(LETTERS.tokens))
    (tmp_path / "mlm").mkdir(), (tmp_path / "qa").mkdir()
    rng = random.Random(1)
    for number in range(3):
        (tmp_path / "mlm" / f"{number}.txt").write_text("\n\n".join(toys.text(rng, 60) for _ in range(20)))
    for part in ("train", "dev"):
        (tmp_path / "qa" / f"{part}.json").write_text(json.dumps(toys.as_json(SQUAD)))
    for part in ("train", "dev", "test"):
        write_articles(tmp_path / "race" / part, ARTICLES)

    def run(task, words):
        data = {"ns": "mlm"}.get(task, task)
        common = f"--batch-size 8 --valid-examples 20 --precision fp32 --cache-dir cache --dataset {data}"
        monkeypatch.setattr("sys.argv", [f"{task}_task.py", *common.split(), *words.split()])
        SCRIPTS[task].run(SCRIPTS[task].arguments(), Ranks())
        return capsys.readouterr().out

    return run


def figures(folder):
    """The scores of a training run, or of an evaluation."""
    told = ["seconds", "validation_seconds", "steps", "tokens", "tokens_per_second", "peak_memory_bytes", "skipped_steps",
            "models", "examples"]  # fmt: skip
    path = next(path for path in (folder / "result.json", folder / "evaluation.json") if path.exists())
    return {name: value for name, value in json.loads(path.read_text()).items() if name not in told}


@pytest.mark.parametrize("task", SCRIPTS)
def test_evaluation_reads_as_the_model_was_trained(call, tmp_path, task):
    call(task, f"{TRAIN} {WAYS[task]} --log-dir first --save m.pt")
    words = WAYS[task].split()
    notes = {name[2:]: value for name, value in zip(words[::2], words[1::2], strict=True)}
    assert {name: str(value) for name, value in read_model("m.pt")["notes"].items() if name in notes} == notes
    call(task, "--evaluate --bert-model m.pt --log-dir again")
    assert figures(tmp_path / "again") == figures(tmp_path / "first")
    call(task, "--evaluate --bert-model m.pt --log-dir other --bptt 64")
    assert figures(tmp_path / "other") != figures(tmp_path / "first")


@pytest.mark.parametrize(("words", "longest"), [("", 16), ("--bptt 24", 24)])
def test_words_are_filled_in_texts_as_long_as_the_model_was_trained_on(call, tmp_path, words, longest):
    save_model("m.pt", MLMTask(BertConfig(len(LETTERS), 32, 1, 2, max_position_embeddings=128)), LETTERS, {"bptt": 16})
    (loaded,) = demo.load("m.pt", "fp32", Ranks())
    loaded.args.bptt = int(words.split()[1]) if words else None
    for count in (longest - 2, longest - 1):  # beside [CLS] and the mask
        text = "the " * count + "[MASK]"
        (tmp_path / "lines.txt").write_text(text)
        for use in (lambda: call("mlm", f"--predict lines.txt --bert-model m.pt {words}"),
                    lambda text=text: demo.fill_masks(loaded, {"text": text})):  # fmt: skip
            if count + 2 <= longest:
                assert use() is not None
            else:
                refused(use, f"{longest + 1} tokens, and the model reads at most {longest}; shorten the text")


@pytest.mark.parametrize("task", ["ns", "qa", "race"])
def test_answers_to_a_file_never_come_from_positions_beyond_those_of_training(call, tmp_path, monkeypatch, task):
    head = {"ns": NextSentenceTask, "qa": QuestionAnswerTask, "race": RaceTask}[task]
    save_model("m.pt", head(BertConfig(len(LETTERS), 32, 1, 2, max_position_embeddings=128)), LETTERS,
               {"bptt": 40, **({"stride": 8} if task == "qa" else {})})  # fmt: skip
    (tmp_path / "pairs.tsv").write_text(f"{'the cat ' * 40}\t{'the dog ' * 40}")
    lengths, plain = [], utils.inputs
    monkeypatch.setattr(utils, "inputs", lambda batch, *more: lengths.append(batch["input_ids"].shape[-1])
                        or plain(batch, *more))  # fmt: skip
    write_folder(read_model("m.pt"), "exported")
    for model in ("m.pt", "exported"):
        call(task, f"--predict {dict(ns='pairs.tsv', qa='qa/dev.json', race='race/test')[task]} --bert-model {model}")
        assert max(lengths) == 40
        lengths.clear()


def test_a_file_called_train_is_answered_as_any_other(call, tmp_path):
    save_model("m.pt", QuestionAnswerTask(BertConfig(len(LETTERS), 32, 1, 2, max_position_embeddings=128)), LETTERS,
               {"bptt": 40, "stride": 8})  # fmt: skip
    (tmp_path / "train.json").write_text(json.dumps(toys.as_json(SQUAD)))
    call("qa", "--predict train.json --output answers.json --bert-model m.pt")
    assert len(json.loads((tmp_path / "answers.json").read_text())) == len(SQUAD.questions)


# Several models, and the page


@pytest.fixture
def models(tmp_path):
    """For questions and for choices two models that read differently, a and b."""
    ways = {"qa_a": {"bptt": 32, "stride": 5}, "qa_b": {"bptt": 64, "stride": 20, "null_threshold": 0.5},
            "race_a": {"bptt": 48, "passage": "select", "layout": "joint"},
            "race_b": {"bptt": 64, "passage": "truncate", "layout": "separate"}}  # fmt: skip
    for seed, (name, notes) in enumerate(ways.items()):
        torch.manual_seed(seed)
        config = BertConfig(len(LETTERS), 32, 1, 2, max_position_embeddings=128)
        model = (QuestionAnswerTask if name.startswith("qa") else RaceTask)(config)
        torch.nn.init.normal_(model.classifier.weight)  # choices that differ
        save_model(tmp_path / f"{name}.pt", model, LETTERS, notes)
    (tmp_path / "text.txt").write_text(ARTICLES[0].text)
    return ways


def said(notes):
    return " ".join(f"--{name} {value}" for name, value in notes.items() if name != "null_threshold")


def predicted(call, task, words, what):
    gold = {"qa": "qa/dev.json", "race": "race/test --scores"}[task]
    call(task, f"--predict {gold} --output out.json {words}")
    return json.loads(open(f"out.{what}.json").read())


def test_models_that_read_differently_choose_together_each_in_its_own_way(call, models):
    one, other = (predicted(call, "race", f"--bert-model race_{name}.pt {said(models[f'race_{name}'])}", "scores")
                  for name in "ab")  # fmt: skip
    both = predicted(call, "race", "--bert-model race_a.pt race_b.pt", "scores")
    for id, rows in both.items():
        for row, *pair in zip(rows, one[id], other[id], strict=True):
            means = [math.sqrt(first * second) for first, second in zip(*pair, strict=True)]
            assert row == pytest.approx([value / math.fsum(means) for value in means], rel=1e-4)
    assert predicted(call, "race", "--bert-model race_a.pt race_b.pt --bptt 40 --passage window", "scores") != both


def test_models_that_read_differently_answer_together_each_in_its_own_way(call, models):
    one, other = (predicted(call, "qa", f"--bert-model qa_{name}.pt {said(models[f'qa_{name}'])}", "null_odds")
                  for name in "ab")  # fmt: skip
    assert predicted(call, "qa", "--bert-model qa_a.pt", "null_odds") == one
    both = predicted(call, "qa", "--bert-model qa_a.pt qa_b.pt", "null_odds")
    for id, odds in both.items():  # the one that holds a threshold tells
        assert logit(odds) == pytest.approx(logit(other[id]), abs=1e-6)
    assert both != one


def test_the_page_reads_as_the_model_does(call, models, tmp_path):
    asked = {"passage": ARTICLES[0].text, "question": "where is the cat ?", "options": ["cat", "dog", "mat", "river"]}
    (loaded,) = demo.load("race_a.pt", "fp32", Ranks())
    shares = demo.choose_option(loaded, asked)["probabilities"]

    def choose(words):
        args = race_task.arguments(["--evaluate", "--precision", "fp32", *words.split()])
        return race_task.choose(args, Ranks(), [(loaded.model, LETTERS)], *asked.values())

    assert shares == choose(said(models["race_a"])) == choose("") != choose("--bptt 128 --passage window --layout separate")


# Flags, files, and runs that go on


def test_training_from_body_and_head_reads_as_the_model_did_unless_told_otherwise(call, models):
    shown = call("race", "--checkpoint race_a.pt --steps 1 --log-dir run --save next.pt --bptt 40 --no-test")
    assert "race_a.pt: reads as it did, --passage select --layout joint\n" in shown
    expected = {"bptt": 40, "passage": "select", "layout": "joint", "marks": "none", "sentences": "rules"}
    assert read_model("next.pt")["notes"] == expected
    call("race", "--bert-model race_b.pt --steps 1 --log-dir run --save new.pt --bptt 40 --no-test")  # its body alone
    assert read_model("new.pt")["notes"] == expected


def test_without_a_word_of_the_file_the_task_decides_as_far_as_the_model_goes(tmp_path):
    args = race_task.arguments(["--evaluate"])
    model = RaceTask(BertConfig(len(LETTERS), 32, 1, 2, max_position_embeddings=128))
    found = vars(flags.reading(args, model, race_task.READING))
    assert found == {"bptt": 128, "passage": "window", "layout": "separate", "marks": "none", "sentences": "rules"}
    model.notes = {"layout": "joint"}  # all that files kept before
    task = race_task.make_task(args, model, LETTERS, Places(tmp_path, tmp_path), {"test": ARTICLES}, "")
    assert isinstance(task.examples["test"].layout, Joint) and task.examples["test"].passage == "window"
    assert race_task.arguments([]).bptt == 512 and qa_task.arguments([]).stride == 128


@pytest.mark.parametrize("words, head, layout, passage", [
    ("", "dcmn", "joint", "select"),
    ("--head duma", "duma", "joint", "select"),
    ("--head duma --duma-layers 2", "duma", "separate", "select"),
    ("--head cls", "cls", "separate", "select"),
    ("--head mix", "mix", "separate", "select"),
    ("--attention-window 128", "dcmn", "separate", "window"),
    ("--head cls --layout joint --passage truncate", "cls", "joint", "truncate"),
])  # fmt: skip
def test_a_new_model_for_options_reads_as_did_best_unless_told_otherwise(words, head, layout, passage):
    args = race_task.arguments(words.split())
    race_task.settle_reading(args, BertConfig(1, **flags.head_settings(args)))
    assert (args.head, args.layout, args.passage) == (head, layout, passage)


def test_a_body_with_an_attention_window_reads_whole_articles_in_rows_of_their_own():
    args = race_task.arguments([])
    race_task.settle_reading(args, BertConfig(1, head="dcmn", attention_window=4))
    assert (args.layout, args.passage) == ("separate", "window")


@pytest.mark.parametrize("task, words, gpu, settings, told", [
    ("race", "", False, (0.1, 512, "adamw"), ""),
    ("race", "--minutes 10", False, (0.0, 128, "adamw"), "--dropout 0 --bptt 128"),
    ("race", "--minutes 10", True, (0.1, 512, "adamw"), ""),
    ("race", "--minutes 10 --dropout 0.2", False, (0.2, 128, "adamw"), "--bptt 128"),
    ("race", "--minutes 10 --checkpoint m.pt", False, (0.0, None, "adamw"), "--dropout 0"),
    ("race", "--minutes 10 --passage window", False, (0.0, 512, "adamw"), "--dropout 0"),
    ("race", "--minutes 10 --attention-window 9", False, (0.0, 512, "adamw"), "--dropout 0"),
    ("race", "--evaluate", False, (None, None, "adamw"), ""),
    ("qa", "--evaluate --minutes 10", False, (None, None, "adamw"), ""),
    ("qa", "--minutes 10 --lr 1e-4", False, (0.0, 384, "adamw"), "--dropout 0 --marks question"),
    ("qa", "--minutes 10 --lr 1e-3 --optimizer muon", False, (0.0, 384, "muon"),
     "--dropout 0 --batch_size 16 --marks question"),
    ("qa", "--minutes 10 --optimizer adamw", False, (0.0, 384, "adamw"), "--dropout 0 --marks question"),
    ("qa", "--minutes 10 --bert-model owner/name", False, (0.0, 384, "adamw"), "--dropout 0 --marks question"),
    ("qa", "--minutes 10 --bert-model none", False, (0.0, 384, "muon"),
     "--dropout 0 --optimizer muon --batch_size 16 --marks question"),
    ("qa", "--minutes 10 --bert-model /", False, (0.0, 384, "adamw"), "--dropout 0 --marks question"),
    ("qa", "--minutes 10 --batch-size 8", False, (0.0, 384, "muon"), "--dropout 0 --optimizer muon --marks question"),
    ("qa", "--minutes 10", False, (0.0, 384, "muon"), "--dropout 0 --optimizer muon --batch_size 16 --marks question"),
    ("qa", "--minutes 10 --parallel FSDP --marks none", False, (0.0, 384, "adamw"), "--dropout 0"),
    ("qa", "--minutes 10 --checkpoint m.pt", False, (0.0, None, "muon"), "--dropout 0 --optimizer muon --batch_size 16"),
    ("qa", "--steps 10", False, (0.1, 384, "adamw"), ""),
    ("mlm", "--minutes 10", False, (0.0, 128, "muon"), "--batch_size 32"),
    ("mlm", "--steps 10", False, (0.0, 128, "muon"), ""),
])  # fmt: skip
def test_minutes_of_a_cpu_go_to_many_examples_which_is_told(monkeypatch, capsys, task, words, gpu, settings, told):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("files.mistakes.TOLD", set())
    args = SCRIPTS[task].arguments(["--dataset", "Books", *words.split()])
    assert (args.dropout, args.bptt, args.optimizer) == settings
    note = f"note: --minutes 10 without a GPU: taking {told}; say otherwise by the same flags\n"
    assert capsys.readouterr().err == (note if told else "")


@pytest.mark.parametrize("words, gpu, layers, width, told", [
    ("", False, 12, 768, False),
    ("--minutes 10", False, 4, 256, True),
    ("--minutes 10", True, 12, 768, False),
    ("--minutes 10 --nlayers 2", False, 2, 256, True),
    ("--minutes 10 --nlayers 2 --emsize 64", False, 2, 64, False),
    ("--minutes 10 --size small", False, 4, 512, False),
    ("--minutes 10 --dataset Sample", False, 4, 128, False),
])  # fmt: skip
def test_a_new_model_is_as_large_as_its_minutes_bear_which_is_told(monkeypatch, capsys, words, gpu, layers, width, told):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("files.mistakes.TOLD", set())
    config = flags.sizes(SCRIPTS["mlm"].arguments(["--dataset", "Books", "--batch_size", "16", *words.split()]), 100)
    assert (config.num_hidden_layers, config.hidden_size) == (layers, width)
    note = "note: --minutes 10 without a GPU: taking --size mini; say otherwise by the same flag\n"
    assert capsys.readouterr().err == (note if told else "")


def test_a_model_that_was_trained_without_marks_is_not_to_be_given_any(call):
    call("qa", f"{TRAIN} --save m.pt")
    refused(lambda: call("qa", "--evaluate --bert-model m.pt --marks question"),
            "--marks question: the model was trained without marks; leave the flag out")  # fmt: skip


@pytest.mark.parametrize(
    "notes", [{"bptt": "64"}, {"bptt": -1}, {"bptt": True}, {"passage": "skim"}, {"layout": [1]}, {"marks": "question"}],
    ids=str,
)
def test_what_cannot_be_in_a_file_is_told(notes):
    model = RaceTask(BertConfig(len(LETTERS), 32, 1, 2, max_position_embeddings=128))
    model.notes = notes
    with pytest.raises(UserError, match=f"the model's {next(iter(notes))} is .*, which cannot be; say --"):
        flags.reading(race_task.arguments(["--evaluate"]), model, race_task.READING)


def test_a_length_in_a_file_is_held_to_the_positions(call, tmp_path):
    config = BertConfig(len(LETTERS), 32, 1, 2, max_position_embeddings=128)
    save_model(tmp_path / "m.pt", RaceTask(config), LETTERS, {"bptt": 200})
    with pytest.raises(UserError, match="--bptt 200: the model has 128 positions; choose at most that"):
        call("race", "--evaluate --bert-model m.pt")


def test_a_state_of_before_goes_on_by_the_flags_that_were_usual_then_which_are_told():
    before = SimpleNamespace(bptt=512, passage="window", layout=None, head=None, seed=1, lr=0.1)
    kept = {name: value for name, value in states.kept_arguments(before).items() if name != "began"}  # which is newer
    state = {"path": "state.pt", "task": "race", "arguments": kept, "sizes": {}, "examples": 3}

    def check(words):
        args = race_task.arguments(["--seed", "1", *words.split()])
        race_task.settle_reading(args, BertConfig(1, head=args.head))
        states.check_same_run(state, "race", {}, args, 3, "words")

    check("--head cls --layout separate --passage window")
    with pytest.raises(UserError, match=r"--passage select, --layout joint, --head dcmn: the run in state\.pt has window, "
                                        "separate, cls; resume with its flags"):  # fmt: skip
        check("")


def test_a_language_of_sentences_is_wanted_only_by_who_looks_for_sentences(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencex", None)
    sentences.library.cache_clear()
    model = RaceTask(BertConfig(len(LETTERS), 32, 1, 2, max_position_embeddings=128))
    model.notes = {"passage": "window", "sentences": "de"}
    assert flags.reading(race_task.arguments(["--evaluate"]), model, race_task.READING).sentences == "de"
    model.notes["passage"] = "select"
    refused(lambda: flags.reading(race_task.arguments(["--evaluate"]), model, race_task.READING), "pip install sentencex")
    args = race_task.arguments(["--evaluate", "--sentences", "rules"])
    assert flags.reading(args, model, race_task.READING).sentences == "rules"


def test_flags_of_the_examples_reach_them(call, monkeypatch):
    made, blocks, pairs = [], mlm_task.MaskedBlocks, ns_task.SentencePairs
    monkeypatch.setattr(mlm_task, "MaskedBlocks", lambda *given: made.append(given[4:]) or blocks(*given))
    monkeypatch.setattr(ns_task, "SentencePairs", lambda *given: made.append(given[4:]) or pairs(*given))
    call("mlm", f"{TRAIN} --bptt 16 --mask-unit whole-word --mask_frac 0.2 --no-test")
    call("ns", f"{TRAIN} --bptt 24 --frac_ns 0.7 --objective sop --min_sentence_len 3 --no-test")
    assert set(made) == {(0.2, "whole-word"), (0.7, "sop", 3)}


def test_a_score_of_the_embedded_data_set_says_that_it_is_one(call, capsys, monkeypatch):
    monkeypatch.setattr("files.mistakes.TOLD", set())
    save_model("m.pt", MLMTask(BertConfig(len(LETTERS), 32, 1, 2, max_position_embeddings=32)), LETTERS, {"bptt": 32})
    monkeypatch.setattr("sys.argv", "mlm_task.py --evaluate --bert-model m.pt --cache-dir cache".split())
    mlm_task.run(mlm_task.arguments(), Ranks())
    assert "note: scoring on Sample, the embedded data set" in capsys.readouterr().err
