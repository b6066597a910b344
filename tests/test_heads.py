"""What heads.py promises in both layouts: padding, batch mates and the order of options change nothing; the formulas."""

import copy
import math

import pytest
import torch
import toys

import heads
import race_task
from checkpoint import load_body, load_model, read_model, save_model
from files.mistakes import UserError
from formats import huggingface
from heads import OPTION, PASSAGE, QUESTION
from model import BertConfig, MLMTask, RaceTask
from text.batches import EVALUATION
from text.option_rows import OptionRows
from training import flags

torch.set_num_threads(1)  # products as small as these are slower with more
LETTERS = toys.letters()
HEADS = [
    dict(head="cls"), dict(head="duma"), dict(head="duma", duma_layers=2), dict(head="dcmn"),
    dict(head="dcmn", compare_options=True), dict(head="mix", mix_layers=2),
]  # fmt: skip
assert {settings["head"] for settings in HEADS} == {"cls", *heads.HEADS}, "each head wants a place in this list"
every_head = pytest.mark.parametrize("settings", HEADS, ids=lambda s: "-".join(map(str, s.values())))
both_layouts = pytest.mark.parametrize("layout", ["separate", "joint"])


def config(**changes):
    sizes = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=220)
    return BertConfig(len(LETTERS), **{**sizes, **changes})


def loud(**settings):
    """A model whose weights are ten times the usual, so that a mistake cannot hide below a tolerance."""
    made = RaceTask(config(**settings)).eval()
    torch.manual_seed(0)
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, float("norm" in name and "weight" in name), 0.2)
    return made


def articles():
    """A short article and a long one, with a question and a cloze each."""
    short, long = toys.articles(count=1, words=5), toys.articles(seed=1, count=1, words=40)
    long[0].id = "high9.txt"
    return short + long


def options(articles, places, layout, max_length=220, **settings):
    return OptionRows(articles, LETTERS, places, max_length, 1, layout=layout, **settings)


def logits(model, data, indices):
    with torch.no_grad():
        return torch.tensor(race_task.rows(model, data.collate(indices, EVALUATION), data, indices))


def same(one, other):
    torch.testing.assert_close(one, other, atol=2e-5, rtol=0)


# What changes nothing


@every_head
@both_layouts
def test_padding_and_batch_mates_change_nothing(places, settings, layout):
    data, model = options(articles(), places, layout), loud(**settings)
    together = logits(model, data, [0, 1, 2, 3])
    assert together.std(1).min() > 1e-3  # the options differ in what they get
    for index in range(4):
        same(logits(model, data, [index])[0], together[index])


@every_head
@both_layouts
def test_what_stands_on_padding_changes_nothing(places, settings, layout):
    data, model = options(articles(), places, layout), loud(**settings)
    batch = data.collate([0, 2], EVALUATION)
    changed = {**batch, "input_ids": torch.where(batch["attention_mask"].bool(), batch["input_ids"], 9)}
    assert not torch.equal(batch["input_ids"], changed["input_ids"])
    same(*(model(**race_task.inputs(each)).detach() for each in (batch, changed)))


@every_head
@both_layouts
def test_options_in_another_order_get_the_same_scores(places, settings, layout):
    order, model = [2, 0, 3, 1], loud(**settings)
    moved = copy.deepcopy(articles())
    for article in moved:
        article.options = [[choice[o] for o in order] for choice in article.options]
    before, after = (logits(model, options(each, places, layout), [0, 1, 2, 3]) for each in (articles(), moved))
    same(after, before[:, order])


@pytest.mark.parametrize("settings", [s for s in HEADS if "compare_options" not in s], ids=lambda s: s["head"])
@both_layouts
def test_an_option_does_not_see_the_others(places, settings, layout):
    model, changed = loud(**settings), copy.deepcopy(articles())
    for article in changed:
        for choice in article.options:
            choice[1] = "a much longer one"
    before, after = (logits(model, options(each, places, layout), [0, 1, 2, 3]) for each in (articles(), changed))
    same(after[:, [0, 2, 3]], before[:, [0, 2, 3]])
    assert ((after - before)[:, 1].abs() > 1e-4).all()


def test_options_that_are_compared_do_see_each_other(places):
    model, changed = loud(head="dcmn", compare_options=True), copy.deepcopy(articles())
    changed[0].options[0][1] = "river"
    before, after = (logits(model, options(each, places, "separate"), [0]) for each in (articles(), changed))
    assert ((after - before).abs() > 1e-5).all()


@every_head
@both_layouts
@pytest.mark.parametrize("show", ["question", "options"])
def test_a_part_without_tokens_gives_finite_scores_and_gradients(places, settings, layout, show):
    data, model = options(articles(), places, layout, show=show), loud(**settings)
    batch = data.collate([0, 1, 2, 3], 0)
    assert not (batch["parts"] == PASSAGE).any() and bool((batch["parts"] == QUESTION).any()) == (show == "question")
    race_task.loss(model, batch).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@every_head
@both_layouts
def test_gradients_reach_every_parameter(places, settings, layout):
    data, model = options(articles(), places, layout), loud(**settings).train()
    race_task.loss(model, data.collate([0, 1, 2, 3], 0)).backward()
    # The classifier's bias adds the same to all options: its gradient is 0 in every multiple-choice model.
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-7]
    assert set(silent) <= {"classifier.bias"}


# The formulas, in plain loops


def softmax(values):
    top = max(values)
    shares = [math.exp(value - top) for value in values]
    return [share / sum(shares) for share in shares]


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def tokens(seed, *parts):
    """States (1, S, 4) in double precision whose tokens have these parts; and the states of each part, as lists."""
    states = torch.randn(1, len(parts), 4, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    return states, torch.tensor([parts]), {part: [states[0, i] for i, p in enumerate(parts) if p == part] for part in parts}


def small(module, *arguments):
    torch.manual_seed(0)
    made = module(*arguments).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return made


SMALL = dict(hidden_size=4, num_attention_heads=2)
ROW = (0, PASSAGE, PASSAGE, PASSAGE, 0, QUESTION, OPTION, OPTION, QUESTION, 0, 0)  # the option stands in a blank


@torch.no_grad()
def test_duma_is_its_formula():
    head = small(heads.Duma, config(**SMALL, duma_layers=2))
    states, parts, by_part = tokens(1, *ROW)
    passage, asked = by_part[PASSAGE], [states[0, i] for i in (5, 6, 7, 8)]

    def attend(layer, x, y):
        found = []
        for token in x:
            heads_ = []
            for h in (slice(0, 2), slice(2, 4)):
                query = layer.query(token)[h]
                shares = softmax([float(query @ layer.key(other)[h]) / math.sqrt(2) for other in y])
                heads_.append(sum(share * layer.value(other)[h] for share, other in zip(shares, y, strict=True)))
            found.append(layer.output(torch.cat(heads_)))
        return found

    for layer in head.layers:
        asked, passage = attend(layer, asked, passage), attend(layer, passage, asked)
    expected = torch.cat([sum(asked) / len(asked), sum(passage) / len(passage)])
    torch.testing.assert_close(head(states, parts, heads.Options(1))[0], expected)


def match(pair, x, y):
    """The inner formula of dcmn for lists of tokens."""

    def side(x, y, linear):
        found = []
        for token in x:
            shares = softmax([float((pair.compare.weight @ token) @ other) for other in y])
            found.append(torch.relu(linear(sum(share * other for share, other in zip(shares, y, strict=True)))))
        return torch.stack(found).max(0).values

    first, second = side(x, y, pair.first), side(y, x, pair.second)
    gate = sigmoid(pair.gate_first.weight @ first + pair.gate_second.weight @ second + pair.gate_second.bias)
    return gate * first + (1 - gate) * second


@torch.no_grad()
def test_dcmn_is_its_formula():
    head = small(heads.Dcmn, config(**SMALL))
    states, parts, by_part = tokens(2, *ROW)
    pairs = [(PASSAGE, QUESTION), (PASSAGE, OPTION), (QUESTION, OPTION)]
    expected = torch.cat([match(each, by_part[x], by_part[y]) for each, (x, y) in zip(head.pairs, pairs, strict=True)])
    torch.testing.assert_close(head(states, parts, heads.Options(1))[0], expected)


@torch.no_grad()
def test_comparing_options_is_its_formula():
    head = small(heads.Comparison, 4)
    lengths = [1, 3, 2]
    states = torch.randn(3, 3, 4, dtype=torch.double, generator=torch.Generator().manual_seed(3))
    mask = torch.arange(3) < torch.tensor(lengths)[:, None]
    own = [[states[i, t] for t in range(length)] for i, length in enumerate(lengths)]
    got = head(states, mask, heads.Options(3))
    for i in range(3):
        for t, token in enumerate(own[i]):
            related = []
            for j in range(3):
                if j != i:
                    shares = softmax([float((head.compare.weight @ token) @ other) for other in own[j]])
                    related.append(torch.relu(sum(s * other for s, other in zip(shares, own[j], strict=True))))
            others = head.others.weight @ (sum(related) / 2)
            gate = sigmoid(head.gate_own.weight @ token + head.gate_others(others))
            torch.testing.assert_close(got[i, t], gate * token + (1 - gate) * others)


@torch.no_grad()
def test_mix_is_its_formula(places):
    model = loud(head="mix", mix_layers=2)
    model.mix.weights.copy_(torch.tensor([0.3, -1.1]))
    batch = options(articles(), places, "separate").collate([0], EVALUATION)
    flat = [batch[name].flatten(0, 1) for name in ("input_ids", "token_type_ids", "attention_mask")]
    below, top = model.bert(*flat, last=2)
    same(top, model.bert(*flat))
    first, second = softmax([0.3, -1.1])
    expected = model.classifier(first * below[:, 0] + second * top[:, 0]).view(1, 4)
    same(model(**race_task.inputs(batch)), expected)


def test_the_mix_reads_no_more_layers_than_there_are():
    assert len(RaceTask(config(head="mix", mix_layers=9)).mix.weights) == 3


def test_multi_sample_dropout_is_the_mean_loss_of_several_masks(places, monkeypatch):
    model, calls = loud(head="mix", classifier_dropout=0.5), []
    batch, scores = options(articles(), places, "separate").collate([0, 1], 0), model.scores
    monkeypatch.setattr(model, "scores", lambda *each: calls.append(scores(*each)) or calls[-1])
    for mode, count in ((False, 1), (True, heads.Mix.SAMPLES)):
        calls.clear()
        loss = race_task.loss(model.train(mode), batch)
        assert len(calls) == count and (count == 1 or not torch.equal(calls[0], calls[1]))
        expected = sum(torch.nn.functional.cross_entropy(c, batch["labels"], reduction="sum") for c in calls) / count
        same(loss, expected)


# The layouts


def test_who_sees_whom_in_a_joint_row():
    positions, visible, own = heads.joint_views(torch.tensor([[2, 4]]), 7)  # two shared tokens, options of two and three
    assert positions.tolist() == [[0, 1, 2, 3, 2, 3, 4]]
    shared, first, second = [1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 1, 1, 1]
    assert visible[0].int().tolist() == [shared] * 2 + [first] * 2 + [second] * 3
    assert own[0].int().tolist() == [first, second]


@pytest.mark.parametrize("passage", ["window", "truncate"])
def test_long_articles_fit_the_position_table_in_the_joint_layout(places, passage):
    long = toys.articles(count=2)
    data = options(long, places, "joint", max_length=64, passage=passage)
    model = loud(max_position_embeddings=64)
    assert logits(model, data, [0, 1, 2, 3]).isfinite().all()
    for index in range(len(data)):
        starts, size, room = data.starts(index), int(data.sizes[index]), int(data.room[index])
        assert room >= 20 and starts[0] == 0 and (len(starts) == 1) == (passage == "truncate")
        assert passage == "truncate" or starts[-1] + room == size
        batch = data.collate([index], EVALUATION)
        positions, _, _ = heads.joint_views(batch["markers"], batch["input_ids"].size(1))
        assert int((positions * batch["attention_mask"]).max()) < 64
    batch = data.collate([0], 0)
    assert data.lengths[0] == batch["input_ids"].size(1)


@both_layouts
def test_texts_of_any_length_fit(places, layout):
    article = articles()[1]
    article.questions[0] = "what is the cat " * 40
    article.options[1][2] = "red garden " * 40
    data = options([article], places, layout, max_length=32)
    assert logits(loud(max_position_embeddings=32), data, [0, 1]).isfinite().all()


# Files and flags


def test_a_model_with_attention_windows_is_refused_in_the_joint_layout(places, tmp_path):
    args = race_task.arguments(["--predict", str(tmp_path), "--bert-model", "m.pt", "--layout", "joint"])
    with pytest.raises(UserError, match=r"--layout joint and --attention-window 5 \(of the flags or the model\)"):
        race_task.make_task(args, loud(attention_window=5), LETTERS, places, {"seen": articles()}, "")


@every_head
def test_a_model_file_rebuilds_the_head(places, tmp_path, settings):
    model, data = loud(**settings), options(articles(), places, "separate")
    save_model(tmp_path / "model.pt", model, LETTERS)
    loaded, _ = load_model(RaceTask, tmp_path / "model.pt")
    assert loaded.bert.config == model.bert.config
    assert torch.equal(logits(loaded.eval(), data, [0, 1]), logits(model, data, [0, 1]))


def test_an_older_model_file_has_the_head_cls(tmp_path):
    save_model(tmp_path / "model.pt", loud(), LETTERS)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    for name in ("head", "duma_layers", "compare_options", "mix_layers"):
        del content["config"][name]
    torch.save(content, tmp_path / "model.pt")
    assert set(content["head"]) == {"classifier.weight", "classifier.bias"}
    assert load_model(RaceTask, tmp_path / "model.pt")[0].bert.config.head == "cls"


def test_any_head_starts_from_any_body_and_is_named(tmp_path, capsys):
    save_model(tmp_path / "model.pt", loud(head="dcmn", compare_options=True), LETTERS)
    model, _ = load_body(RaceTask, tmp_path / "model.pt", settings={"head": "duma", "duma_layers": 2})
    assert model.bert.config.head == "duma" and len(model.duma.layers) == 2 and not model.bert.config.compare_options
    assert "new: the head of RaceTask (duma, classifier); not used: the head of RaceTask" in capsys.readouterr().out
    model, _ = load_body(MLMTask, tmp_path / "model.pt")
    assert model.bert.config.head == "cls"


def test_another_head_than_the_files_is_one_clear_line():
    flags.check_same_head({"head": "duma"}, config(head="duma"), "model.pt")
    with pytest.raises(UserError, match=r"--head dcmn: the model in model\.pt has head duma; leave"):
        flags.check_same_head({"head": "dcmn"}, config(head="duma"), "model.pt")
    with pytest.raises(ValueError, match="head is 'dmcn'; it must be one of cls, duma, dcmn, mix"):
        config(head="dmcn")


def test_only_the_head_cls_leaves_for_transformers(tmp_path):
    pytest.importorskip("safetensors")
    save_model(tmp_path / "model.pt", loud(head="dcmn"), LETTERS)
    with pytest.raises(UserError, match="no head such as dcmn") as error:
        huggingface.write_folder(read_model(tmp_path / "model.pt"), tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_head_and_layout_come_from_the_model_file(run_script, tmp_path):
    tiny = "--nlayers 1 --emsize 32 --nhead 2 --batch-size 8 --bptt 64 --valid-examples 20".split()
    run_script("race_task.py", *tiny, *"--bert-model none --head dcmn --layout joint --passage window --steps 2".split())
    notes = read_model(tmp_path / "race_model.pt")["notes"]
    assert notes == {"bptt": 64, "passage": "window", "layout": "joint", "marks": "none", "sentences": "rules"}
    trained = (tmp_path / "runs/race/result.json").read_text().split('"test_loss"')[1].rstrip("\n}")
    run_script("race_task.py", *tiny, "--evaluate")
    assert (tmp_path / "runs/race/evaluation.json").read_text().split('"test_loss"')[1].startswith(trained + ",")
    for flag, words in (("--head mix", "has head dcmn"), ("--mix-layers 2", "has mix_layers 4")):
        assert words in run_script("race_task.py", *tiny, "--evaluate", *flag.split(), code=2).stderr
    error = run_script("race_task.py", *tiny, "--bert-model", "none", "--duma-layers", "2", code=2).stderr
    assert error == "error: --duma-layers: not of the head dcmn; add --head duma\n"
