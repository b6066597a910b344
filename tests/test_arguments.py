"""Flags and mistakes: every flag in both spellings, and one line that names the thing and the remedy, exit code 2."""

import json
import subprocess
import sys

import pytest
import torch
import toys
from conftest import ROOT

import heads
import mlm_task
import ns_task
import qa_task
import race_task
from files import mistakes
from model import BertConfig
from text import batches
from training import flags as task_flags
from training.schedule import default_rate

SCRIPTS = {"mlm": mlm_task, "ns": ns_task, "qa": qa_task, "race": race_task}
OLD_FLAGS = dict(emsize="64", nhid="100", nlayers="3", nhead="4", lr="0.5", clip="0.2", epochs="7", batch_size="9",
                 bptt="77", dropout="0.25", seed="3", log_interval="5", checkpoint="a.pt", save="b.pt", dataset="Text",
                 parallel="DDP", world_size="3")  # fmt: skip
OWN_FLAGS = {
    "mlm": dict(save_vocab="v.pt", mask_frac="0.3"),
    "ns": dict(bert_model="m.pt", frac_ns="0.7", min_sentence_len="9"),
    "qa": dict(bert_model="m.pt"),
    "race": dict(bert_model="m.pt"),
}


def parsed(monkeypatch, task, *flags):
    monkeypatch.setattr(sys, "argv", [f"{task}_task.py", *flags])
    return SCRIPTS[task].arguments()


@pytest.mark.parametrize("task", SCRIPTS)
def test_old_flags_are_taken_with_a_dash_and_with_an_underscore(monkeypatch, task):
    for name, value in {**OLD_FLAGS, **OWN_FLAGS[task]}.items():
        for spelling in (name, name.replace("_", "-")):
            assert str(getattr(parsed(monkeypatch, task, f"--{spelling}", value), name)) == value, spelling


@pytest.mark.parametrize("task", SCRIPTS)
def test_new_flags_are_the_same_for_every_task(monkeypatch, task):
    args = parsed(monkeypatch, task, "--data_dir", "d", "--log_dir", "l", "--minutes", "0.5", "--precision", "bf16",
                  "--accumulate", "2", "--resume", "--evaluate", "--size", "mini", "--vocab_size", "300")  # fmt: skip
    assert (args.data_dir, args.log_dir, args.minutes, args.precision, args.accumulate) == ("d", "l", 0.5, "bf16", 2)
    assert args.resume and args.evaluate and (args.size, args.vocab_size) == ("mini", 300)


@pytest.mark.parametrize("task", SCRIPTS)
def test_help_is_given_without_torch_which_takes_a_second_to_import(task):
    code = f"import sys, runpy, atexit; sys.argv = ['{task}_task.py', '--help']\n" \
           "atexit.register(lambda: print('with torch' if 'torch' in sys.modules else 'without'))\n" \
           f"runpy.run_path('{task}_task.py', run_name='__main__')"  # fmt: skip
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.startswith("usage: ") and output.endswith("without\n")


def test_every_head_can_be_chosen():
    for head in ["cls", *heads.HEADS]:
        assert race_task.arguments(["--head", head]).head == head


FIRST = {"mlm": None, "ns": "mlm_bert.pt", "qa": "ns_bert.pt", "race": "ns_bert.pt"}
SAVED = {"mlm": "mlm_bert.pt", "ns": "ns_bert.pt", "qa": "qa_model.pt", "race": "race_model.pt"}


@pytest.mark.parametrize("task", SCRIPTS)
def test_the_model_to_use_is_the_one_named_else_what_the_task_saved_and_to_train_from_what_the_one_before_did(
    monkeypatch, task
):
    assert parsed(monkeypatch, task).bert_model == FIRST[task]
    others = {"mlm": ["--predict a", "--fill a"], "ns": ["--predict a"], "race": ["--predict a"],
              "qa": ["--predict a.json", "--ask Who? --context a.txt"]}  # fmt: skip
    for use in ["--evaluate", *others.get(task, [])]:
        assert parsed(monkeypatch, task, *use.split()).bert_model == SAVED[task]
        assert parsed(monkeypatch, task, *use.split(), "--save", "mine.pt").bert_model == "mine.pt"
        for named in ("mlm_bert.pt", "ns_bert.pt", "none"):
            assert parsed(monkeypatch, task, *use.split(), "--bert-model", named).bert_model == named


@pytest.mark.parametrize("flags", [
    "--size huge", "--epochs 0", "--steps -1", "--dropout 1", "--dropout -0.1", "--batch-size 0", "--lr 0", "--minutes 0",
    "--seed -1", f"--seed {1 << 64}", "--parallel MPI", "--precision fp8", "--bptt x", "--emsi 3", "--nonsense",
    "--accumulate 0", "--weight-decay nan", "--weight-decay -0.1", "--lr inf", "--minutes inf",
])  # fmt: skip
def test_values_that_make_no_sense_are_refused(monkeypatch, capsys, flags):
    with pytest.raises(SystemExit) as stop:
        parsed(monkeypatch, "mlm", *flags.split())
    assert stop.value.code == 2 and flags.split()[0] in capsys.readouterr().err


def test_the_largest_seed_is_taken_by_all_who_draw(monkeypatch):
    seed = parsed(monkeypatch, "mlm", "--seed", str((1 << 64) - 1)).seed
    torch.manual_seed(seed)
    assert len(batches.epoch_batches(5, 2, seed, 0)) == 3


@pytest.mark.parametrize("wrong, right", [("--emsiz", "--emsize"), ("--batchsize", "--batch_size"), ("--qqq", None)])
def test_an_unknown_flag_is_answered_with_the_nearest_one(monkeypatch, capsys, wrong, right):
    with pytest.raises(SystemExit):
        parsed(monkeypatch, "mlm", wrong, "3")
    error = capsys.readouterr().err
    remedy = f"did you mean {right}?" if right else "see --help"
    assert error == f"error: unrecognized arguments: {wrong} 3; {remedy}\n"


@pytest.mark.parametrize("task", SCRIPTS)
def test_help_is_grouped_and_ends_with_the_commands_of_the_script(monkeypatch, capsys, task):
    with pytest.raises(SystemExit) as stop:
        parsed(monkeypatch, task, "--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "(default: Sample)" in text
    assert text.count("(default: None)") == 1  # that of --parallel, whose None is a choice
    headings = [line for line in text.splitlines() if line.endswith(":") and line[0] not in " -"]
    own = f"{task}_task.py:"
    assert headings == ["options:", "files:", "a new model:", "training:", "this machine:", own, "examples:"]
    assert f"  python {task}_task.py " in text[text.index("examples:") :]


@pytest.fixture
def folder(tmp_path):
    """Text, questions and a vocabulary: all that a run needs but articles."""
    (tmp_path / "a.txt").write_text("the cat sat. The dog sat.\n\n" * 30)
    (tmp_path / "vocab").write_text("\n".join(toys.letters().tokens))
    for seed, name in enumerate(("train.json", "dev.json")):
        (tmp_path / name).write_text(json.dumps(toys.as_json(toys.squad(seed))))
    return tmp_path


@pytest.mark.parametrize("task, flags, words", [
    ("ns", "", ["mlm_bert.pt", "no such file", "run mlm_task.py"]),
    ("qa", "", ["ns_bert.pt", "no such file", "ns_task.py first"]),
    ("race", "", ["ns_bert.pt", "no such file", "ns_task.py first"]),
    ("mlm", "--evaluate", ["mlm_bert.pt", "no such file"]),
    ("ns", "--evaluate", ["ns_bert.pt", "no such file"]),
    ("qa", "--evaluate --save mine.pt", ["mine.pt", "no such file"]),
    ("qa", "--predict train.json --save mine.pt", ["mine.pt", "no such file"]),
    ("qa", "--ask Who? --context a.txt --save mine.pt", ["mine.pt", "no such file"]),
    ("race", "--predict . --save mine.pt", ["mine.pt", "no such file"]),
    ("race", "--evaluate --bert-model none", ["no model named", "--bert-model"]),
    ("qa", "--ask Who?", ["--context"]),
    ("qa", "--predict train.json --ask Who? --context a.txt", ["--predict and --ask", "choose one"]),
    ("qa", "--bert-model a.pt --checkpoint b.pt", ["--checkpoint and --bert-model", "name one"]),
    ("qa", "--ask Who? --context - --parallel DDP", ["--context -", "--parallel DDP", "give a file"]),
    ("mlm", "--output words.json", ["--output words.json", "add it"]),
    ("ns", "--bert-model none --output a.json", ["--output a.json", "add it"]),
    ("qa", "--evaluate --output a.json", ["--output a.json", "add it"]),
    ("race", "--bert-model a.pt --output a.json", ["--output a.json", "add it"]),
    ("mlm", "--world_size 2", ["--world_size 2", "--parallel DDP"]),
    ("mlm", "--epochs 2 --minutes 1", ["--epochs 2 and --minutes 1", "two budgets"]),
    ("mlm", "--save /dev/null", ["/dev/null", "is no file"]),
    ("mlm", "--precision fp16", ["--precision fp16", "bf16"]),
    ("mlm", "--emsize 30 --nhead 4", ["30", "4", "--nhead"]),
    ("mlm", "--bptt 4", ["--bptt 4", "at least 8"]),
    ("mlm", "--mask_frac 1", ["--mask_frac 1.0"]),
    ("mlm", "--tokenizer wordpiece", ["--vocab FILE"]),
    ("mlm", "--dataset nowhere", ["nowhere"]),
    ("ns", "--bert-model none --frac_ns 2", ["--frac_ns 2.0"]),
    ("qa", "--bert-model none --stride 0", ["--stride 0"]),
    ("qa", "--bert-model none --dataset SQuAD9", ["SQuAD9"]),
    ("race", "--bert-model none --dataset nowhere", ["nowhere"]),
    ("race", "--bert-model none --attention-window 99999999", ["--attention-window 99999999", "smaller"]),
    ("race", "--bert-model none --head duma --duma-layers 99999999", ["--duma-layers 99999999", "smaller"]),
])  # fmt: skip
def test_a_mistake_is_one_line_with_its_remedy(run_script, folder, task, flags, words):
    given = "" if "wordpiece" in flags else "--vocab vocab"
    error = run_script(f"{task}_task.py", *f"--nlayers 1 --emsize 32 --bptt 16 --dataset . {given} {flags}".split(), code=2)
    assert error.stderr.startswith("error: ") and error.stderr.count("\n") == 1
    assert all(word in error.stderr for word in words), error.stderr
    assert not [path for name in ("*_bert.pt", "*_model.pt", "*.tmp*") for path in folder.rglob(name)]


def test_a_sequence_longer_than_the_position_table_names_both_numbers(run_script, folder):
    common = "--dataset . --nlayers 1 --emsize 32 --nhead 1 --steps 1 --batch-size 2".split()
    run_script("mlm_task.py", *common, "--vocab", "vocab", "--bptt", "16")
    error = run_script("ns_task.py", "--dataset", ".", "--bptt", "600", code=2).stderr
    assert error.startswith("error: --bptt 600: ") and "512" in error and error.count("\n") == 1


@pytest.mark.parametrize("given", [[], ["--bert-model", "ns_bert.pt"]])
def test_sizes_beside_a_model_that_has_its_own_are_told_to_count_for_nothing(monkeypatch, tmp_path, capsys, given):
    monkeypatch.setattr(mistakes, "TOLD", set())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ns_bert.pt").touch()
    parsed(monkeypatch, "qa", "--emsize", "32", "--vocab-size", "99", "--norm", "pre", *given)
    error = capsys.readouterr().err
    of_new = "of a new model, which --bert-model none makes; ns_bert.pt is what it is"
    assert error == f"note: --emsize --norm --vocab-size: {of_new}\n"


def test_a_checkpoint_that_is_not_there_is_one_line(run_script):
    error = run_script("mlm_task.py", "--checkpoint", "gone.pt", code=2).stderr
    assert error.startswith("error: gone.pt: no such file") and error.count("\n") == 1


@pytest.mark.parametrize("words", ["mlm --fill", "mlm --predict", "ns --predict", "qa --context c --ask", "race --predict"])
def test_a_use_of_nothing_is_no_wish_to_train(run_script, words):
    task, *flags = words.split()
    error = run_script(f"{task}_task.py", *flags, " ", code=2).stderr
    assert error.startswith(f"error: {flags[-1]}: is empty") and error.count("\n") == 1


@pytest.mark.parametrize("line", ["mlm_task.py --checkpoint", "qa_task.py --bert-model", "mlm_task.py --dataset",
                                  "data.py prepare --vocab", "checkpoint.py show some.pt --save-vocab"])  # fmt: skip
def test_a_variable_of_the_shell_that_is_not_set_is_no_choice(run_script, line):
    error = run_script(*line.split(), "", code=2).stderr
    assert error.startswith(f"error: {line.split()[-1]}: is empty; give it a value") and error.count("\n") == 1


def test_a_model_is_not_saved_under_a_name_that_would_be_read_as_anothers(run, tmp_path):
    error = run("mlm", f"--steps 1 --save {tmp_path}/best.safetensors", code=2).stderr
    assert "best.safetensors: a name of weights alone" in error and error.count("\n") == 1


@pytest.mark.parametrize("line, told", [
    ("data.py prepare", "(default: Sample)"), ("checkpoint.py embed", "(default: vectors.npy)"),
    ("mlm_task.py", "(default: 16, under --minutes without a GPU 32)"),
    ("qa_task.py", "(default: adamw, under --minutes without a GPU muon of a body made here)"),
    ("race_task.py", "under --minutes without a GPU 128 of selected sentences, or the trained model's)"),
])  # fmt: skip
def test_help_shows_the_defaults(run_script, line, told):
    assert told in " ".join(run_script(*line.split(), "--help").stdout.split())


@pytest.mark.parametrize("size, layers, width", [
    ("tiny", 2, 128), ("mini", 4, 256), ("small", 4, 512), ("medium", 8, 512), ("base", 12, 768), ("large", 24, 1024),
])  # fmt: skip
def test_sizes_are_the_published_ones(size, layers, width):
    config = task_flags.sizes(mlm_task.arguments(["--size", size]), 100)
    assert (config.num_hidden_layers, config.hidden_size) == (layers, width)
    assert (config.num_attention_heads, config.intermediate_size) == (width // 64, 4 * width)


@pytest.mark.parametrize("task, optimizer, rates", [
    ("mlm", "muon", (2e-3, 1.4e-3, 8e-4)), ("ns", "muon", (2e-4, 1.4e-4, 8e-5)),
    ("qa", "adamw", (4e-4, 3.7e-4, 7.1e-5)), ("race", "adamw", (4e-4, 1.4e-4, 2.7e-5)),
    ("race", "muon", (1.5e-3, 7.5e-4, 2.5e-4)),
])  # fmt: skip
def test_rates_by_width_are_those_of_the_page(task, optimizer, rates):
    """docs/pretraining.rst, at 128, 256 and 768."""
    found = [default_rate(task, BertConfig(1, width, 1, 1), optimizer) for width in (128, 256, 768)]
    assert found == pytest.approx(rates, rel=0.03)


@pytest.mark.parametrize("task, budget", [("mlm", (2, 16, "muon")), ("ns", (4, 64, "muon")), ("qa", (2, 32, "adamw")),
                                          ("race", (3, 16, "adamw"))])  # fmt: skip
def test_a_bare_command_trains_as_the_pages_say(monkeypatch, task, budget):
    args = parsed(monkeypatch, task, *(["--bert-model", "none"] if task != "mlm" else []))
    assert (args.epochs, args.batch_size, args.optimizer) == budget
