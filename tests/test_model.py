"""What model.py promises: calls and shapes, padding that changes nothing, dropout, weights, and parity with BERT."""

import re

import pytest
import torch
import torch.nn.functional as F

import model as module
from dropout import drop_out
from model import (
    BertConfig,
    BertModel,
    MLMTask,
    NextSentenceTask,
    QuestionAnswerTask,
    RaceTask,
    attention,
    window_attention,
)

torch.set_num_threads(1)  # products as small as these are slower with more
HEADS = [MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask]
every_head = pytest.mark.parametrize("head", HEADS)
both_norms = pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
N, OPTIONS, S, V = 3, 4, 12, 50


def config(**changes):
    sizes = dict(vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=128)
    return BertConfig(**{**sizes, **changes})


def loud(head, seed=0, **changes):
    """A model whose weights are ten times the usual, so that a mistake cannot hide below a tolerance."""
    made = head(config(**changes)).eval()
    torch.manual_seed(seed)
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, float("norm" in name and "weight" in name), 0.2)
    return made


def batch(head, seed=0):
    """input_ids, token_type_ids and attention_mask; the rows differ in length."""
    generator = torch.Generator().manual_seed(seed)
    shape = (N, OPTIONS, S) if head is RaceTask else (N, S)
    ids, types = (torch.randint(high, shape, generator=generator) for high in (V, 2))
    lengths = torch.randint(S // 2, S + 1, shape[:-1], generator=generator)
    return ids, types, (torch.arange(S) < lengths[..., None]).long()


def joined(output):
    """A head's result as one tensor."""
    return torch.stack(output) if isinstance(output, tuple) else output


# Calls


def test_calls_give_the_shapes_of_the_design():
    ids, types, mask = batch(MLMTask)
    assert BertModel(config())(ids, types, mask).shape == (N, S, 32)
    assert MLMTask(config())(ids).shape == (N, S, V)
    assert NextSentenceTask(config())(ids, types, mask).shape == (N, 2)
    start, end = QuestionAnswerTask(config())(ids, types, mask)
    assert start.shape == end.shape == (N, S)
    assert RaceTask(config())(*batch(RaceTask)).shape == (N, OPTIONS)


@every_head
def test_no_mask_means_no_padding_and_no_types_mean_the_first(head):
    ids, types, mask = batch(head)
    model = loud(head)
    bare, full = model(ids), model(ids, torch.zeros_like(types), torch.ones_like(mask))
    torch.testing.assert_close(joined(bare), joined(full), atol=1e-5, rtol=0)


def test_mlm_at_positions_equals_its_full_logits_there():
    ids, types, mask = batch(MLMTask)
    positions = (torch.rand(N, S) < 0.3) & mask.bool()
    model = loud(MLMTask)
    at_positions = model(ids, types, mask, positions=positions)
    assert at_positions.shape == (positions.sum(), V)
    torch.testing.assert_close(at_positions, model(ids, types, mask)[positions], atol=1e-5, rtol=0)
    assert model(ids, types, mask, positions=torch.zeros_like(positions)).shape == (0, V)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mlm_loss_in_one_piece_equals_the_cross_entropy_of_its_logits(dtype):
    """Value and gradients, for more rows than are done at once, and whatever factor the loss is multiplied by."""
    torch.manual_seed(0)
    model, ids, positions = MLMTask(config(vocab_size=300)).eval(), torch.randint(300, (4, S)), torch.rand(4, S) < 0.8
    labels = ids[positions]
    assert len(labels) > module.heads.VocabularyLoss.sizes(ids.device)[0]

    def value_and_gradients(loss):
        model.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            value = loss()
        (value * 0.37).backward()
        return value.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])

    expected = value_and_gradients(
        lambda: F.cross_entropy(model(ids, positions=positions).float(), labels, reduction="sum")
    )
    found = value_and_gradients(lambda: model(ids, positions=positions, labels=labels))
    exact = dtype == torch.float32
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-4)
    assert (found[1] - expected[1]).norm() < (1e-5 if exact else 0.02) * expected[1].norm()


def test_each_labels_loss_is_that_of_the_full_logits(monkeypatch):
    monkeypatch.setattr(MLMTask, "SCORED", 3)
    ids, types, mask = batch(MLMTask)
    positions, model = mask.bool(), loud(MLMTask)
    labels = torch.randint(V, (int(positions.sum()),))
    found = model(ids, types, mask, positions=positions, labels=labels, each=True)
    expected = F.cross_entropy(model(ids, types, mask)[positions], labels, reduction="none")
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_mlm_output_is_tied_to_the_word_embedding():
    model = loud(MLMTask)
    big = [name for name, weight in model.state_dict().items() if V in weight.shape]
    assert big == ["bias", "bert.embedding.embed.weight"]
    before = model(torch.tensor([[7, 8]]))
    with torch.no_grad():
        model.bert.embedding.embed.weight[20] += 1.0  # a word that the input does not hold
    changed = (model(torch.tensor([[7, 8]])) - before).abs().amax((0, 1)) > 1e-6
    assert changed.nonzero().tolist() == [[20]]


def test_race_scores_each_option_as_if_alone():
    ids, types, mask = batch(RaceTask)
    model = loud(RaceTask)
    alone = [[model(*(x[n : n + 1, o : o + 1] for x in (ids, types, mask))).item() for o in range(OPTIONS)]
             for n in range(N)]  # fmt: skip
    torch.testing.assert_close(model(ids, types, mask), torch.tensor(alone), atol=1e-5, rtol=0)


def test_too_long_a_sequence_names_both_numbers():
    with pytest.raises(ValueError, match=r"129.*128"):
        BertModel(config())(torch.zeros(1, 129, dtype=torch.long))
    assert BertModel(config())(torch.zeros(1, 128, dtype=torch.long)).shape == (1, 128, 32)


@pytest.mark.parametrize("wrong, message", [
    (dict(hidden_size=30), r"30.*4"), (dict(num_hidden_layers=0), "num_hidden_layers"),
    (dict(num_attention_heads=0), "num_attention_heads"), (dict(hidden_act="sine"), "sine.*gelu"),
    (dict(vocab_size=0), "vocab_size"), (dict(max_position_embeddings=-1), "max_position_embeddings"),
    (dict(intermediate_size=0), "intermediate_size"), (dict(hidden_size=32.0), "hidden_size"),
    (dict(hidden_dropout_prob=1.0), "hidden_dropout_prob"),
    (dict(attention_probs_dropout_prob=-0.1), "attention_probs_dropout_prob"),
])  # fmt: skip
def test_sizes_that_cannot_work_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        config(**wrong)


def test_a_config_keeps_out_what_is_no_number():
    with pytest.raises(ValueError, match="vocab_size"):
        BertConfig(vocab_size=True)


# Padding


@both_norms
@every_head
def test_padding_never_changes_a_result(head, norm_first):
    ids, types, mask = batch(head)
    model = loud(head, norm_first=norm_first)
    padding = (0, 50)
    for fill in (0, 7):  # whatever ids stand there
        padded = (F.pad(ids, padding, value=fill), F.pad(types, padding, value=fill % 2), F.pad(mask, padding))
        with_padding, without = joined(model(*padded)), joined(model(ids, types, mask))
        if head is MLMTask:  # a result for each token: compare those of real tokens
            with_padding, without = with_padding[:, :S][mask.bool()], without[mask.bool()]
        if head is QuestionAnswerTask:
            with_padding, without = with_padding[..., :S][:, mask.bool()], without[:, mask.bool()]
        torch.testing.assert_close(with_padding, without, atol=1e-5, rtol=0)
    unmasked = joined(model(F.pad(ids, padding, value=7), F.pad(types, padding)))
    assert (unmasked.flatten()[0] - joined(model(ids, types, mask)).flatten()[0]).abs() > 1e-3  # the test can fail


def test_each_row_is_as_if_alone():
    ids, types, mask = batch(QuestionAnswerTask)
    model = loud(QuestionAnswerTask)
    starts, _ = model(ids, types, mask)
    for row, length in enumerate(mask.sum(1).tolist()):
        start, _ = model(ids[row : row + 1, :length], types[row : row + 1, :length])
        torch.testing.assert_close(starts[row, :length], start[0], atol=1e-5, rtol=0)


# Weights


@pytest.mark.parametrize("std", [0.02, 0.05])
def test_weights_are_normal_and_each_layer_draws_its_own(std):
    torch.manual_seed(0)
    model = NextSentenceTask(config(vocab_size=500, hidden_size=128, num_hidden_layers=5, initializer_range=std))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == (1.0 if name.endswith("weight") else 0.0)).all(), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        elif ".embedding." in name:
            assert len(parameter.unique(dim=0)) == len(parameter), name
        elif re.search(r"layers\.[012]\.attention\.", name):  # test_initial.py
            continue
        elif parameter.numel() > 1000:
            assert abs(parameter.std() / std - 1) < 0.1 and abs(parameter.mean()) < 0.1 * std, name
    first, second = (dict(layer.named_parameters()) for layer in model.bert.layers[3:])
    matrices = [name for name in first if first[name].dim() == 2]
    assert len(matrices) == 4 and not any(torch.equal(first[name], second[name]) for name in matrices)


@both_norms
@every_head
def test_gradients_reach_every_parameter(head, norm_first):
    ids, types, mask = batch(head)
    model = loud(head, norm_first=norm_first).train()
    output = joined(model(ids, types, mask))
    (output * torch.randn(output.shape)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


# Dropout


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("place", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
@every_head
def test_dropout_varies_training_and_never_evaluation(head, place, window):
    other = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "attention_window": window}
    inputs = batch(head)
    model = loud(head, **{**other, place: 0.5})
    assert torch.equal(joined(model(*inputs)), joined(model(*inputs)))
    model.train()
    assert not torch.equal(joined(model(*inputs)), joined(model(*inputs)))
    model = loud(head, **other).train()
    assert torch.equal(joined(model(*inputs)), joined(model(*inputs)))


ALL = 1 - 1e-12  # as good as everything dropped


@pytest.mark.parametrize("by_numpy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_a_share_and_what_it_sums_to_and_follows_torchs_seed(monkeypatch, by_numpy, dtype):
    monkeypatch.setattr("dropout.SERIAL_MASKS", by_numpy)

    def drawn(seed, p=0.3):
        torch.manual_seed(seed)
        return drop_out(torch.ones(3, 5, 20_001, dtype=dtype), p)

    x = drawn(1)
    assert x.dtype == dtype and x.unique().tolist() == [0, torch.tensor(1 / 0.7, dtype=dtype).item()]
    for part in (x, x[..., ::2], x[..., 1::2], x[1], x[:, 3]):  # standard error of the smallest: 0.003
        assert (part == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    neighbours = (x[..., 1:] == 0) & (x[..., :-1] == 0)
    assert neighbours.float().mean().item() == pytest.approx(0.09, abs=0.005)
    assert torch.equal(x, drawn(1)) and not torch.equal(x, drawn(2)) and drawn(1, 0.0).all()


@pytest.mark.parametrize("by_numpy", [False, True])
def test_what_dropout_dropped_gets_no_gradient(monkeypatch, by_numpy):
    monkeypatch.setattr("dropout.SERIAL_MASKS", by_numpy)
    x = torch.ones(7, 11, requires_grad=True)
    y = drop_out(x, 0.5)
    y.sum().backward()
    assert torch.equal(x.grad, y) and set(y.flatten().tolist()) == {0.0, 2.0}


def test_dropout_stands_behind_the_embedding_and_in_both_residual_branches():
    model = loud(BertModel, norm_first=True, hidden_dropout_prob=ALL, attention_probs_dropout_prob=0.0).train()
    x = torch.randn(2, 5, 32)
    assert torch.equal(model.layers[0](x), x)
    assert not model.embedding(torch.tensor([[1, 2]])).any()
    post = loud(BertModel, hidden_dropout_prob=ALL, attention_probs_dropout_prob=0.0).train().layers[0]
    assert torch.equal(post(x), post.norm2(post.norm1(x)))


def test_dropout_falls_on_the_attention_probabilities():
    attend = loud(BertModel, hidden_dropout_prob=0.0, attention_probs_dropout_prob=ALL).train().layers[0].attention
    torch.testing.assert_close(attend(torch.randn(2, 5, 32)), attend.out_proj.bias.expand(2, 5, 32))


@pytest.mark.parametrize("head", [NextSentenceTask, RaceTask])
def test_dropout_falls_on_the_pooled_token(head):
    model = loud(head, hidden_dropout_prob=ALL)
    model.dropout.train()
    output = model(*batch(head))
    assert torch.equal(output, model.classifier.bias.expand(N, -1) if head is NextSentenceTask else
                       model.classifier.bias.expand(N, OPTIONS))  # fmt: skip


# The same numbers as elsewhere


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype, error", [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("length", [9, 32, 45])
@pytest.mark.parametrize("mask", ["none", "keys", "pairs"])
def test_attention_and_its_gradients_equal_torchs_own(device, dtype, error, length, mask):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    torch.manual_seed(0)
    *inputs, direction = (torch.randn(2, 3, length, 8) for _ in range(4))
    seen = torch.rand(2, 1, length if mask == "pairs" else 1, length) < 0.7
    seen = None if mask == "none" else seen | (torch.arange(length) == 0)

    def gradients(attend, device, dtype):
        ours = [x.to(device, dtype).requires_grad_() for x in inputs]
        output = attend(*ours, None if seen is None else seen.to(device))
        return [x.float().cpu() for x in (output, *torch.autograd.grad(output, ours, direction.to(device, dtype)))]

    expected = gradients(F.scaled_dot_product_attention, "cpu", torch.float32)
    for ours, torchs in zip(gradients(module.attention, device, dtype), expected, strict=True):
        torch.testing.assert_close(ours, torchs, atol=error, rtol=0)


NAMES = {  # ours -> transformers', within the embedding, a layer, and outside
    "embedding.embed": "embeddings.word_embeddings", "embedding.position.embed": "embeddings.position_embeddings",
    "embedding.token_type.embed": "embeddings.token_type_embeddings", "embedding.norm": "embeddings.LayerNorm",
    "attention.out_proj": "attention.output.dense", "linear1": "intermediate.dense", "linear2": "output.dense",
    "norm": "encoder.ln", "pooler": "pooler.dense",
}  # fmt: skip
POST_NORMS = {"norm1": "attention.output.LayerNorm", "norm2": "output.LayerNorm"}
PRE_NORMS = {"norm1": "attention.ln", "norm2": "ln"}


def copy_weights(ours, theirs, norm_first):
    """Give our body the weights of one of transformers' BERTs, all of them."""
    names, theirs = NAMES | (PRE_NORMS if norm_first else POST_NORMS), dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        place, kind = name.rsplit(".", 1)
        layer = ""
        if place.startswith("layers."):
            _, number, place = place.split(".", 2)
            layer = f"encoder.layer.{number}."
        parts = ("query", "key", "value") if place == "attention.in_proj" else ()
        sources = [f"attention.self.{part}" for part in parts] or [names[place]]
        parameter.data.copy_(torch.cat([theirs.pop(f"{layer}{source}.{kind}") for source in sources]))
    assert not theirs


@both_norms
@pytest.mark.parametrize("changes", [{}, {"attention_window": 3}, {"share_layers": True, "embedding_size": 16}], ids=str)
@pytest.mark.parametrize("last", [None, 1, 2])
def test_states_and_gradients_at_some_places_are_those_of_computing_all(norm_first, changes, last):
    model, places = loud(BertModel, norm_first=norm_first, **changes), torch.tensor([0, 5, S + 1, 2 * S, 3 * S - 4])
    ids, types, mask = batch(BertModel)

    def found(some):
        model.zero_grad()
        states = model(ids, types, mask, last=last, places=places if some else None)
        states = states if last else [states]
        states = states if some else [x.flatten(0, 1)[places] for x in states]
        sum((x * torch.linspace(-1, 1, x.numel()).view_as(x)).sum() for x in states).backward()
        return states, [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    for one, other in zip(*map(found, (True, False)), strict=True):
        assert len(one) == len(other)
        for x, y in zip(one, other, strict=True):
            torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["Bert", "MegatronBert"])
def test_hidden_states_equal_those_of_transformers(kind):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = config(intermediate_size=48)
    theirs = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(
        vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=128, layer_norm_eps=sizes.layer_norm_eps,
    )).eval()  # fmt: skip
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.2)
    sizes.norm_first = kind == "MegatronBert"
    ours = BertModel(sizes, pooler=True).eval()
    copy_weights(ours, theirs, sizes.norm_first)
    ids, types, mask = batch(BertModel)
    with torch.no_grad():
        expected, hidden = theirs(input_ids=ids, token_type_ids=types, attention_mask=mask), ours(ids, types, mask)
    torch.testing.assert_close(hidden[mask.bool()], expected.last_hidden_state[mask.bool()], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.pool(hidden[:, 0]), expected.pooler_output, atol=1e-5, rtol=0)


# Shared layers and narrow words


@every_head
def test_shared_layers_and_narrow_words_train(head):
    sizes = dict(num_hidden_layers=3, intermediate_size=48, max_position_embeddings=40, hidden_dropout_prob=0.0,
                 attention_probs_dropout_prob=0.0)  # fmt: skip
    torch.manual_seed(0)
    model = head(config(**sizes, share_layers=True, embedding_size=20)).train()
    output = joined(model(*batch(head)))
    (output * torch.randn(output.shape)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert len(model.bert.layers) == 1
    full = sum(p.numel() for p in BertModel(config(**sizes)).parameters())
    assert sum(p.numel() for p in model.bert.parameters()) < full / 1.5


def test_shared_layers_are_the_same_layer_again_and_again():
    shared = loud(QuestionAnswerTask, num_hidden_layers=3, share_layers=True)
    unrolled = loud(QuestionAnswerTask, num_hidden_layers=3)
    weights = shared.state_dict()
    unrolled.load_state_dict({name: weights[name.replace("layers.1", "layers.0").replace("layers.2", "layers.0")]
                              for name in unrolled.state_dict()})  # fmt: skip
    inputs = batch(QuestionAnswerTask)
    assert all(torch.equal(a, b) for a, b in zip(shared(*inputs), unrolled(*inputs), strict=True))


# Sliding windows


def banded(s, window):
    """(S, S), True where window_attention lets a token look: near, at the first, and from the first."""
    place = torch.arange(s)
    seen = (place[:, None] - place).abs() <= window
    seen[:, 0] = seen[0] = True
    return seen


@pytest.mark.parametrize(("s", "window"), [(23, 4), (24, 4), (9, 1), (40, 39), (12, 30)])
def test_window_attention_is_attention_with_a_band_and_a_first_token(s, window):
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, s, 4, dtype=torch.double, requires_grad=True) for _ in range(3))
    mask = torch.ones(3, 1, 1, s, dtype=torch.bool)
    mask[1, ..., s // 2 :] = False
    mask[2, ..., s - 1 :] = False
    real = mask[:, 0, 0, :, None].expand(3, s, 4)[:, None]
    found = window_attention(q, k, v, mask, 0.0, window) * real
    expected = attention(q, k, v, mask & banded(s, window)) * real
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    gradients = [torch.autograd.grad(x, (q, k, v), upstream) for x in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_a_new_type_begins_as_the_last_one():
    model = BertModel(BertConfig(50, 16, 1, 2)).eval()
    ids, types = torch.randint(5, 50, (2, 9)), torch.arange(9).remainder(2).expand(2, 9)
    before = model(ids, types)
    model.extend_types(3)
    assert model.config.type_vocab_size == 3
    assert torch.equal(model(ids, types), before) and torch.equal(model(ids, types.where(types == 0, 2)), before)
    model.extend_types(2)
    assert model.config.type_vocab_size == 3


def test_a_model_with_windows_reads_texts_longer_than_its_table_and_padding_changes_nothing():
    torch.manual_seed(0)
    model = RaceTask(BertConfig(50, 16, 2, 2, max_position_embeddings=20, attention_window=5)).eval()
    table = model.bert.embedding.position.embed.weight.clone()
    model.bert.extend_positions(70)
    assert model.bert.config.max_position_embeddings == 70
    assert torch.equal(model.bert.embedding.position.embed.weight[20:40], table)
    ids = torch.randint(5, 50, (2, 4, 61))
    mask = torch.ones_like(ids)
    mask[1, :, 33:] = 0
    short = model(ids[1:, :, :33], attention_mask=mask[1:, :, :33])
    torch.testing.assert_close(model(ids, attention_mask=mask)[1:], short, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="attention_window takes no attention_mask"):
        model.bert(ids[0], attention_mask=mask[0][:, None].expand(4, 61, 61))
