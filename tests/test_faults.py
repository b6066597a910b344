"""The faults of the two projects that this one revives (DESIGN.md lists them), one short test each that it has none.

Fuller tests of the same things stand beside the modules: test_model.py, test_masked_blocks.py and so on.
"""

import argparse
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toys

import mlm_task
import qa_task
import race_task
import utils
from metrics import exact_score, f1_score, squad_scores
from model import BertConfig, MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask
from text import answers
from text.batches import EVALUATION
from text.masked_blocks import MaskedBlocks
from text.option_rows import OptionRows
from text.places import Places
from text.question_windows import QuestionWindows
from text.questions import Question, SquadSet, fill
from text.sentence_pairs import SentencePairs
from text.tokenizer import Tokenizer
from text.vocabularies import wordpiece
from training import flags
from training.ranks import Ranks, launch, local_device
from training.schedule import Schedule
from training.states import State

torch.set_num_threads(1)  # products as small as these are slower with more
LETTERS = toys.letters()
CORPUS = toys.corpus(*[[7, 5, 9, 6, 8, 4, 10, 5]] * 60)
SMALL = BertConfig(len(LETTERS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2)


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path, tmp_path / "cache")


def blocks(seed=1, **options):
    return MaskedBlocks(CORPUS, toys.numbered(5000), 64, seed, **options)


# Vocabulary and network


def test_cls_and_sep_are_in_every_vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(LETTERS.tokens))
    for tokenizer in (LETTERS, wordpiece(tmp_path / "vocab.txt"), Tokenizer.from_state(LETTERS.state())):
        special = {tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}
        assert len(special) == 5 and max(special) < len(tokenizer)
        assert not special & set(tokenizer.encode_ids("[CLS] [SEP] [MASK] <cls> <sep>")) - {tokenizer.unk_id}


def test_padding_is_masked():
    torch.manual_seed(0)
    model = NextSentenceTask(SMALL).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ids, mask = torch.randint(9, 40, (2, 10)), torch.ones(2, 10, dtype=torch.long)
    padded, zeros = torch.cat([ids, ids], 1), torch.zeros_like(mask)
    longer = model(padded, attention_mask=torch.cat([mask, zeros], 1))
    torch.testing.assert_close(longer, model(ids), atol=1e-5, rtol=0)
    assert (model(padded) - model(ids)).abs().max() > 1e-3  # as it would be without the mask


def test_weights_are_initialised():
    weights = QuestionAnswerTask(SMALL).bert.layers[0].linear1.weight
    assert weights.std().item() == pytest.approx(SMALL.initializer_range, rel=0.1)


def test_no_two_layers_start_equal():
    first, second = (layer.state_dict() for layer in RaceTask(SMALL).bert.layers)
    assert not any(torch.equal(first[name], second[name]) for name in first if first[name].dim() == 2)


def test_the_dropout_flag_is_obeyed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["mlm_task.py", "--dropout", "0.35"])
    model = NextSentenceTask(flags.sizes(mlm_task.arguments(), 100))
    rates = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert len(rates) == 2 + len(model.bert.layers) and set(rates) == {0.35}
    assert {layer.attention.dropout for layer in model.bert.layers} == {0.35}


def test_logits_are_computed_at_the_masked_positions_only():
    batch, seen = blocks().collate([0, 1, 2], 0), []
    model = MLMTask(BertConfig(5000, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    model.transform.register_forward_hook(lambda module, arguments, output: seen.append(output.shape))
    mlm_task.loss(model, batch)
    assert seen == [(len(batch["labels"]), 32)] and len(batch["labels"]) < 0.4 * batch["input_ids"].numel()


# Masks


def test_each_sequence_has_a_mask_of_its_own():
    patterns = blocks().collate(range(12), 0)["positions"]
    assert len(patterns.unique(dim=0)) == 12


def test_chosen_tokens_are_masked_replaced_and_kept_80_10_10():
    data = blocks(mask_frac=0.3)
    batch = data.collate(range(len(data) - 1), 0)
    shown, labels = batch["input_ids"][batch["positions"]], batch["labels"]
    masked, kept = (shown == data.tokenizer.mask_id).float().mean(), (shown == labels).float().mean()
    assert masked.item() == pytest.approx(0.8, abs=0.05) and kept.item() == pytest.approx(0.1, abs=0.04)


def test_validation_is_masked_the_same_each_time():
    one, other = (blocks(seed, mask_frac=fraction).collate([3, 4], EVALUATION) for seed, fraction in ((1, 0.15), (2, 0.5)))
    assert torch.equal(one["input_ids"], other["input_ids"]) and torch.equal(one["positions"], other["positions"])


# Sums, rates, ranks


def test_averages_are_over_the_terms_that_were_summed():
    rows = [(0, (30.0, 10)), (1, (2.0, 1))]  # summed loss and masked tokens of two blocks
    assert mlm_task.figures(None, rows) == {"loss": 32 / 11, "ppl": math.exp(32 / 11)}
    assert utils.count_terms({"labels": torch.zeros(7), "input_ids": torch.zeros(2, 9)}) == 7


def test_gradients_are_means_over_all_examples_however_they_are_cut(tmp_path):
    def gradient(accumulate):
        torch.manual_seed(0)
        args = argparse.Namespace(
            precision="fp32", optimizer="adamw", weight_decay=0.0, log_dir=tmp_path, batch_size=3, accumulate=accumulate,
            minutes=None, steps=9, warmup=0.0, lr=0.0, seed=1, clip=1e9, parallel="None", save_minutes=10.0,
        )  # fmt: skip
        model = MLMTask(BertConfig(5000, 16, 1, 2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
        task = utils.Task("mlm", model, None, {"train": blocks()}, mlm_task.loss, None, None, None)
        trainer = utils.Trainer(task, args, Ranks())
        micro_batches, real, _ = next(trainer.work())
        assert len(micro_batches) == accumulate
        trainer.step(micro_batches, real, 0.0)
        return trainer.norm, trainer.state.recent[0]

    (norm, terms), (norm_in_parts, terms_in_parts) = gradient(1), gradient(2)
    torch.testing.assert_close(norm_in_parts, norm, atol=1e-5, rtol=0)
    assert terms_in_parts == pytest.approx(terms)


def test_the_learning_rate_is_the_same_on_every_rank():
    class Rank:
        def __init__(self, clock):
            self.clock = clock

        def of_first(self, value):  # rank 0's clock shows 30 s, whatever that of this rank does
            return 30.0

    args = SimpleNamespace(minutes=1.0, warmup=0.1, lr=1.0)
    rates = []
    for clock in (30.0, 41.0):
        schedule = Schedule(args, 10, Rank(clock))
        schedule.counted -= clock
        rates.append(schedule.rate(schedule.progress(State())))
    assert rates == [pytest.approx(0.5 / 0.9)] * 2


def test_the_learning_rate_rises_then_falls_to_zero():
    args = SimpleNamespace(minutes=None, steps=100, epochs=None, warmup=0.1, lr=2.0)
    schedule = Schedule(args, 10, Ranks())
    rates = [schedule.rate(step / 100) for step in range(100)]
    assert max(rates) == pytest.approx(2.0, rel=0.1) and 8 <= rates.index(max(rates)) <= 11
    assert 0 < rates[0] < 0.2 and 0 < rates[-1] < 0.02


def report(args, ranks):
    """What one of several processes finds; run by `launch`."""
    (args.folder / str(ranks.rank)).write_text(f"{ranks.world} {ranks.device.type} {ranks.sum(ranks.rank + 1)[0]}")


@pytest.mark.slow
def test_any_number_of_processes_train_without_gpus(tmp_path, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there are GPUs here")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert local_device(3).type == "cpu"
    assert not launch(report, argparse.Namespace(parallel="DDP", world_size=3, folder=tmp_path))
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == ["3 cpu 6.0"] * 3


# Next sentences


def test_negatives_come_from_anywhere_but_a_beginning_and_are_never_the_true_pair():
    data, places, true_second = SentencePairs(CORPUS, toys.numbered(5000), 64, 1), [], []
    starts = {int(CORPUS.tokens[start]): number for number, start in enumerate(CORPUS.sentences[:, 0])}
    for epoch in range(10):
        for index in range(len(data)):
            first, second, label = data.pair(index, epoch)
            if not label:
                places.append(starts[int(second[0])] % 8)  # each document has eight sentences
                true_second.append(second[0] == first[-1] + 1)
    shares = np.bincount(places, minlength=8) / len(places)
    assert shares[0] == 0 and (shares[1:] > 0.06).all() and not any(true_second)  # nor are true ones a beginning


# Questions


def test_long_questions_stay_in_the_development_set(places):
    squad = toys.squad(impossible=False)
    squad.questions[0].text = "where is the cat " * 100
    data = QuestionWindows(squad, LETTERS, places, 48, 16)
    assert set(data.windows[:, 0]) == set(range(len(squad.questions)))


def test_impossible_questions_count(places):
    questions = [Question("a", "who ?", 0, "", []), Question("b", "who ?", 0, "", [("cat", 4)])]
    squad = SquadSet(["the cat sat"], questions, True)
    data = QuestionWindows(squad, LETTERS, places, 48, 16)
    batch = data.collate([0, 1], EVALUATION)
    assert batch["start"].tolist() == [0, data.context_start(1) + 1]
    scores = squad_scores(qa_task.as_squad(data, {"a", "b"}), {"a": "the cat", "b": "cat"})
    assert scores["total"] == 2 and scores["exact"] == 50.0


def test_f1_is_over_normalised_words():
    assert f1_score("The Cat!", ["cat"]) == exact_score("a  CAT.", ["the cat"]) == 1.0
    assert f1_score("cat sat", ["the cat."]) == pytest.approx(2 / 3)


def test_answers_are_slices_of_the_text(places):
    context = "On the mat sat Zoë-Ann O'Neil, a  CAT."
    squad = SquadSet([context], [Question("q", "who ?", 0, "", [("Zoë-Ann O'Neil", context.index("Zoë"))])], False)
    data = QuestionWindows(squad, LETTERS, places, 64, 16)
    first, last = data.answer_tokens(squad.questions[0])

    def answer(first, last):
        return answers.best_answers(data, answers.candidates(data, [(0, (0.0, (0.0, 0.0), [(1.0, 0.0, first, last)]))]))[0]

    assert answer(first, last) == {"q": "Zoë-Ann O'Neil"}
    assert answer(last + 2, last + 3) == {"q": "a  CAT"}  # decoded tokens would be "a cat"


def test_the_blank_of_a_cloze_is_filled_by_the_option():
    assert fill("The cat sat on the _ .", "mat") == "The cat sat on the mat ."


def test_the_end_of_an_article_is_read(places):
    article = toys.articles(count=1, questions=1)[0]
    article.text += " house river"
    data = OptionRows([article], LETTERS, places, 48, 1)
    rows = data.collate([0], EVALUATION)["input_ids"][:, 0].tolist()
    end = LETTERS.encode_ids("house river")
    assert any(row[i : i + 2] == end for row in rows for i in range(len(row)))


def test_padding_has_no_part_in_means_and_softmaxes(places):
    short, long = toys.articles(count=1, words=5), toys.articles(count=1, words=30)
    long[0].id = "high9.txt"
    torch.manual_seed(0)
    model = RaceTask(SMALL).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    alone, together = (OptionRows(articles, LETTERS, places, 200, 1) for articles in (short, short + long))
    logits = [race_task.rows(model, data.collate([0, len(data) - 1], EVALUATION), data, [0, len(data) - 1])[0]
              for data in (alone, together)]  # fmt: skip
    assert logits[1] == pytest.approx(logits[0], abs=1e-5)
    squad = toys.squad(contexts=2)
    windows = QuestionWindows(squad, LETTERS, places, 200, 64)
    qa = QuestionAnswerTask(SMALL).eval()
    shortest, longest = int(windows.lengths.argmin()), int(windows.lengths.argmax())
    losses = [qa_task.span_losses(qa, windows.collate(indices, EVALUATION))[2][0].item()
              for indices in ([shortest], [shortest, longest])]  # fmt: skip
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
