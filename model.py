"""The network: BERT (Devlin et al. 2019, arXiv 1810.04805) from torch alone, and one head for each task.

    config = BertConfig(vocab_size=8000, hidden_size=128, num_hidden_layers=2, num_attention_heads=2)
    logits = MLMTask(config)(input_ids)         # (N, S) -> (N, S, V)

Design choices:
- Batch first. N sequences, S tokens, D = hidden_size, H heads of D / H, V words.
- ``attention_mask`` (N, S) is 1 on tokens and 0 on padding; None means no padding. What stands on padding never reaches
  a real token: padded keys get no attention, and no head reads a padded position.
- Post-norm as published; ``norm_first=True`` is the pre-norm variant (Xiong et al. 2020, arXiv 2002.04745; the
  layout is Megatron-BERT's: no norm after the embedding, one after the last layer), which stands higher learning
  rates; with 4 layers of 128 post-norm was ahead all the same (benchmarks/LOG.md).
- The pooler belongs to the body, as in everybody's checkpoints, but exists only under the heads that read it: a weight
  that never gets a gradient stalls distributed training and hides mistakes.
- ALBERT (Lan et al. 2020, arXiv 1909.11942) is two fields: ``embedding_size`` E, words narrower than D and projected to
  it, and ``share_layers``, one layer applied again and again.
- The vocabulary-wide product, the most expensive one of pretraining, is done at the masked positions only, and so is what
  the last layer does behind its attention; for next sentence and heads that read first tokens, at those.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import heads
import initial
from dropout import Dropout, drop_out

ACTIVATIONS = {"gelu": F.gelu, "gelu_new": lambda x: F.gelu(x, approximate="tanh"), "relu": F.relu}
LARGEST, MOST_LAYERS = 1 << 24, 200


@dataclass
class BertConfig:
    """Sizes, under the names that config.json files use. Raises ValueError for sizes that cannot work."""

    vocab_size: int
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int | None = None  # default: 4 * hidden_size
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    norm_first: bool = False
    embedding_size: int | None = None  # E; default: D, without a projection
    share_layers: bool = False
    classifier_dropout: float | None = None  # before a classifier; default: hidden_dropout_prob
    attention_window: int | None = None  # tokens seen on either side, beside the first one; default: all
    tie_word_embeddings: bool = True  # False: the masked-word head has an output matrix of its own
    head_norm_eps: float | None = None  # of the masked-word head; default: layer_norm_eps
    head: str = "cls"  # of RaceTask, as are the next three; see heads.py
    duma_layers: int = 1
    compare_options: bool = False
    mix_layers: int = 4

    def __post_init__(self):
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        whole = """vocab_size hidden_size num_attention_heads intermediate_size max_position_embeddings type_vocab_size
            word_size window duma_layers mix_layers num_hidden_layers"""
        self.check(whole, "a whole number of at least 1", lambda x: type(x) is int and x >= 1)
        for name in whole.split():  # a file's claim, not yet its weights
            if getattr(self, name) > (MOST_LAYERS if name == "num_hidden_layers" else LARGEST):
                raise ValueError(f"{name} is {getattr(self, name)}; that is more than any network has")
        self.check("hidden_dropout_prob attention_probs_dropout_prob head_dropout", "at least 0 and below 1",
                   lambda x: type(x) in (int, float) and 0 <= x < 1)  # fmt: skip
        self.check("layer_norm_eps initializer_range" + " head_norm_eps" * (self.head_norm_eps is not None),
                   "a number between 0 and 1", lambda x: type(x) in (int, float) and 0 <= x <= 1)  # fmt: skip
        self.check("norm_first share_layers tie_word_embeddings", "True or False", lambda x: type(x) is bool)
        for name, known in (("hidden_act", [*ACTIVATIONS]), ("head", ["cls", *heads.HEADS])):
            self.check(name, "one of " + ", ".join(known), known.__contains__)
        if self.hidden_size % (number := self.num_attention_heads):
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {number}")

    def check(self, names: str, what: str, right: Callable[..., bool]) -> None:
        for name in names.split():
            if not right(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {what}")

    @property
    def word_size(self) -> int:
        """E, the width of a word's vector, and of its position's and part's."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def window(self) -> int:
        """How far a token sees on either side: everywhere, or ``attention_window``."""
        return self.max_position_embeddings if self.attention_window is None else self.attention_window

    @property
    def head_dropout(self) -> float:
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


class PositionalEncoding(nn.Module):
    """A learned vector for each position: (S, E), or (N, S, E) with ``position_ids`` (N, S).

    It starts as sinusoids, so that neighbours can be told from the first step on; see initial.py.
    """

    def __init__(self, config):
        super().__init__()
        self.embed = nn.Embedding(config.max_position_embeddings, config.word_size)

    def initialise(self):
        if not self.embed.weight.is_meta:  # formats/shapes.py: no memory to fill
            self.embed.weight.data.copy_(initial.waves(*self.embed.weight.shape))

    def forward(self, length, position_ids=None):
        if position_ids is not None:
            return self.embed(position_ids)
        if length > self.embed.num_embeddings:
            raise ValueError(f"a sequence of {length} tokens is longer than the {self.embed.num_embeddings} positions")
        return self.embed.weight[:length]


class TokenTypeEncoding(nn.Module):
    """A learned vector for the first and the second part of a pair: (N, S) -> (N, S, E)."""

    def __init__(self, config):
        super().__init__()
        self.embed = nn.Embedding(config.type_vocab_size, config.word_size)

    def forward(self, token_type_ids):
        if token_type_ids is None:
            return self.embed.weight[0]
        # As a sum over types, not a lookup: the backward pass of a lookup in two rows collides on every token.
        types = torch.arange(self.embed.num_embeddings, device=token_type_ids.device)
        return (token_type_ids[..., None] == types).to(self.embed.weight.dtype) @ self.embed.weight


class BertEmbedding(nn.Module):
    """Word, position and part, summed, normalised, dropped out, and E widened to D: (N, S) -> (N, S, D)."""

    def __init__(self, config):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.word_size)
        self.position = PositionalEncoding(config)
        self.token_type = TokenTypeEncoding(config)
        self.norm = nn.Identity() if config.norm_first else nn.LayerNorm(config.word_size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.project = nn.Linear(config.embedding_size, config.hidden_size) if config.embedding_size else nn.Identity()

    def initialise(self):
        """Words normal(0, E^-0.5), so that the tied output layer begins with logits of unit variance."""
        nn.init.normal_(self.embed.weight, std=self.embed.embedding_dim**-0.5)
        self.position.initialise()

    def forward(self, input_ids, token_type_ids=None, position_ids=None):
        positions = self.position(input_ids.size(1), position_ids)
        x = self.embed(input_ids) + positions + self.token_type(token_type_ids)
        return self.project(self.dropout(self.norm(x)))


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """softmax(Q Kᵀ / sqrt(d)) V (Vaswani et al. 2017, section 3.2.1); Q, K, V are (N, H, S, d).

    ``mask`` (N or 1, 1, S or 1, S) is True where a query may look at a key, of which each needs one. GPUs run torch's
    fused kernel, unless the bits must be the same each time. CPUs run the formula as it stands: there the kernel takes
    two to three times as long to train in bf16, and with dropout longer in fp32 too (benchmarks/LOG.md).
    """
    if query.is_cuda and not torch.are_deterministic_algorithms_enabled():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    if mask is not None and key.dtype == torch.bfloat16 and (short := -key.size(2) % 32):
        # Rows that end within a vector take CPUs up to twice as long: their softmax does the rest one by one.
        key, value, mask = F.pad(key, (0, 0, 0, short)), F.pad(value, (0, 0, 0, short)), F.pad(mask, (0, short))
    scores = (query * query.size(-1) ** -0.5) @ key.transpose(-2, -1)  # (N, H, S, S)
    if mask is not None:
        scores += torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return drop_out(scores.softmax(-1), dropout) @ value


def window_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, window: int) -> Tensor:
    """``attention`` in which token i sees tokens i - window to i + window and the first, which sees all; (N, H, S, d).

    The sliding window with one global token of Longformer (Beltagy et al. 2020, arXiv 2004.05150, section 3.1), with the
    same projections for both. In blocks of ``window`` queries, each against the first key and its own, the previous and
    the next block of keys, so that time and memory grow with S and not its square. ``mask`` is (N, 1, 1, S), True on
    tokens, or None.
    """
    n, s = query.size(0), query.size(2)
    blocks = -(-s // window)
    mask = torch.ones(1, 1, 1, s, dtype=torch.bool, device=query.device) if mask is None else mask
    mask = mask.expand(n, 1, 1, s)

    def around(x):  # (N, H, S, d) -> (N * blocks, H, 1 + 3 * window, d): the first token, and those about a block
        near = F.pad(x, (0, 0, window, (blocks + 1) * window - s)).unfold(2, 3 * window, window).transpose(-1, -2)
        first = x[:, :, None, :1].expand(-1, -1, blocks, -1, -1)
        return torch.cat([first, near], 3).transpose(1, 2).flatten(0, 1)

    others = mask[:, :, 0, :, None].clone()  # (N, 1, S, 1)
    others[:, :, 0] = False  # the first token is seen as the first, once
    place = torch.arange(1 + 3 * window, device=query.device) - 1 - window  # of a key, counted from its block's first query
    band = (place - torch.arange(window, device=query.device)[:, None]).abs() <= window
    seen = around(others).transpose(-1, -2) & band
    seen[..., 0] = mask[..., 0].repeat_interleave(blocks, 0)  # (N * blocks, 1, window, 1 + 3 * window)
    own = F.pad(query, (0, 0, 0, blocks * window - s)).unflatten(2, (blocks, window)).transpose(1, 2).flatten(0, 1)
    x = attention(own, around(key), around(value), seen, dropout).unflatten(0, (n, blocks)).transpose(1, 2).flatten(2, 3)
    whole = attention(query[:, :, :1], key, value, mask, dropout)  # of the first token, (N, H, 1, d)
    return torch.cat([whole, x[:, :, 1:s]], 2)


class MultiheadAttention(nn.Module):
    """Self-attention of H heads over (N, S, D), Vaswani et al. 2017, section 3.2; ``mask`` (N, 1, 1 or S, S): True is seen.

    With ``attention_window`` as window_attention has it. With ``places``, what `at` has of the tokens: (M, D).
    """

    def __init__(self, config):
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout, self.window = config.attention_probs_dropout_prob, config.attention_window
        self.in_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x, mask=None, places=None):
        n, s, d = x.shape
        query, key, value = self.in_proj(x).view(n, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        if self.window and s > self.window + 1:  # else all see all
            if mask is not None and mask.size(2) > 1:
                raise ValueError("attention_window takes no attention_mask of (N, S, S), such as the joint layout's")
            x = window_attention(query, key, value, mask, dropout, self.window)
        else:
            x = attention(query, key, value, mask, dropout)  # (N, H, S, d)
        return self.out_proj(at(x.transpose(1, 2).reshape(n, s, d), places))


def at(x: Tensor, places: Tensor | None) -> Tensor:
    """(N, S, D) -> (M, D): the tokens at ``places`` (M,), numbers counted through all N * S; with None as they are."""
    return x if places is None else x.flatten(0, 1).index_select(0, places)


def add(x, y):
    """x + y in the precision of ``y``, a product's: under autocast half of the bytes, and no sums of mixed precision,
    which take CPUs ten times as long."""
    return x.to(y.dtype) + y


class TransformerEncoderLayer(nn.Module):
    """Attention, then two linear layers over each token, each with a residual connection and a LayerNorm, of (N, S, D).

    With ``places``, what comes after attention is computed for the tokens there only, (M, D).
    """

    def __init__(self, config):
        super().__init__()
        self.norm_first = config.norm_first
        self.attention = MultiheadAttention(config)
        self.norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def feed_forward(self, x):
        return self.linear2(self.activation(self.linear1(x)))

    def forward(self, x, mask=None, places=None):
        if self.norm_first:
            x = add(at(x, places), self.dropout(self.attention(self.norm1(x), mask, places)))
            return add(x, self.dropout(self.feed_forward(self.norm2(x))))
        x = self.norm1(add(at(x, places), self.dropout(self.attention(x, mask, places))))
        return self.norm2(add(x, self.dropout(self.feed_forward(x))))


def longer(table: nn.Embedding, count: int, repeated: int) -> nn.Embedding:
    """A table of ``count`` rows, if it has fewer: the new ones are its last ``repeated`` over and over."""
    rows, new = table.weight.data, max(0, count - table.num_embeddings)
    more = rows[-repeated:].repeat(-(-new // repeated), 1)[:new]
    return nn.Embedding.from_pretrained(torch.cat([rows, more]), freeze=False)


class BertModel(nn.Module):
    """The body: ids (N, S) -> hidden states (N, S, D).

    ``attention_mask`` may be (N, S, S), 1 where a token may look at another. ``position_ids`` (N, S) stand in for 0 to
    S - 1. With ``last=k``, the states that the last k layers give, a list. With ``places`` (M,), numbers counted through
    all N * S, the states of the tokens there only, (M, D), which spares most of the last layer. Raises ValueError when S
    exceeds ``max_position_embeddings``.
    """

    def __init__(self, config: BertConfig, pooler: bool = False):
        super().__init__()
        self.config = config
        self.embedding = BertEmbedding(config)
        depth = 1 if config.share_layers else config.num_hidden_layers
        self.layers = nn.ModuleList(TransformerEncoderLayer(config) for _ in range(depth))
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if config.norm_first else nn.Identity()
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if pooler else None
        self.apply(self.initialise)
        self.embedding.initialise()
        if config.embedding_size is None and not config.share_layers:
            initial.look_around(self.embedding.embed, self.layers[:1] if config.norm_first else self.layers)

    def initialise(self, module):
        """Weights normal(0, initializer_range), biases 0 (Devlin et al. 2019 and their code)."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, input_ids, token_type_ids=None, attention_mask=None, position_ids=None, last=None, places=None):
        x = self.embedding(input_ids, token_type_ids, position_ids)
        if attention_mask is not None and attention_mask.dim() == 2:
            attention_mask = attention_mask[:, None]
        mask = None if attention_mask is None else attention_mask.bool()[:, None]  # (N, 1, 1, S) or (N, 1, S, S)
        rounds = self.config.num_hidden_layers // len(self.layers)  # more than 1 where one layer is all
        *layers, top = [*self.layers] * rounds
        earlier, states = (last or 1) - 1, []
        for layer in layers:
            x = layer(x, mask)
            states = [*states, x][-earlier:] if earlier else []
        states = [self.norm(x) for x in [*(at(x, places) for x in states), top(x, mask, places)]]
        return states[0] if last is None else states

    def extend_positions(self, count: int) -> None:
        """Make the position table ``count`` long, if it is shorter, by repeating it (Beltagy et al. 2020, section 5)."""
        self.embedding.position.embed = longer(self.embedding.position.embed, count, self.config.max_position_embeddings)
        self.config.max_position_embeddings = max(count, self.config.max_position_embeddings)

    def extend_types(self, count: int) -> None:
        """Make the table of types ``count`` long, if it is shorter; a new one begins as the last one there is."""
        self.embedding.token_type.embed = longer(self.embedding.token_type.embed, count, 1)
        self.config.type_vocab_size = max(count, self.config.type_vocab_size)

    def pool(self, firsts):
        """tanh of a linear layer over the first tokens' states: (N, D) -> (N, D)."""
        return torch.tanh(self.pooler(firsts))


class MLMTask(nn.Module):
    """The masked-language-model head: the words that stand behind the masks.

    Gives logits (N, S, V), or those at ``positions`` only, (M, V): the M true places of a boolean (N, S), or (M,) numbers
    of places counted through all N * S, for which a GPU need not be asked where they are. With ``labels`` (M,), what
    stood there, the summed cross-entropy instead, for less time and memory; ``each`` gives it label by label, (M,). The
    output matrix is the word embedding (Press & Wolf 2017, arXiv 1608.05859), with a bias of its own; some older models,
    which ``tie_word_embeddings=False`` stands for, have another matrix.
    """

    SCORED = 2048  # labels at a time, of 30,000 fp32 logits: 250 MB

    def __init__(self, config: BertConfig):
        super().__init__()
        self.bert = BertModel(config)
        self.transform = nn.Linear(config.hidden_size, config.word_size)
        self.activation = ACTIVATIONS[config.hidden_act]
        eps = config.layer_norm_eps if config.head_norm_eps is None else config.head_norm_eps
        self.norm = nn.LayerNorm(config.word_size, eps)
        self.decoder = None if config.tie_word_embeddings else nn.Linear(config.word_size, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.into_gradient = heads.into_gradient  # training/compiling.py puts a compiled one in its place
        self.bert.initialise(self.transform)
        self.bert.initialise(self.decoder)

    def forward(self, input_ids, token_type_ids=None, attention_mask=None, positions=None, labels=None, each=False):
        if positions is not None and positions.dtype == torch.bool:
            positions = positions.flatten().nonzero()[:, 0]
        x = self.bert(input_ids, token_type_ids, attention_mask, places=positions)
        transformed = self.transform(x)
        x = self.norm(self.activation(transformed))
        words = self.bert.embedding.embed if self.decoder is None else self.decoder
        if labels is None:
            return F.linear(x, words.weight, self.bias)
        if each:
            parts = zip(x.split(self.SCORED), labels.split(self.SCORED), strict=True)
            return torch.cat([F.cross_entropy(F.linear(x, words.weight, self.bias).float(), right, reduction="none")
                              for x, right in parts])  # fmt: skip
        return heads.VocabularyLoss.apply(x.to(transformed.dtype), words.weight, self.bias, labels, self.into_gradient)


def first_places(input_ids):
    """The numbers of the rows' first tokens, counted through all N * S."""
    return torch.arange(0, input_ids.numel(), input_ids.size(1), device=input_ids.device)


class NextSentenceTask(nn.Module):
    """Logits (N, 2) from the pooled first token; class 1: the second part follows the first."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.bert = BertModel(config, pooler=True)
        self.dropout = Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.hidden_size, 2)
        self.bert.initialise(self.classifier)

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        firsts = self.bert(input_ids, token_type_ids, attention_mask, places=first_places(input_ids))
        return self.classifier(self.dropout(self.bert.pool(firsts)))


class QuestionAnswerTask(nn.Module):
    """Start and end logits, each (N, S): one linear layer of two outputs over every token."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.bert = BertModel(config)
        self.classifier = nn.Linear(config.hidden_size, 2)
        self.bert.initialise(self.classifier)

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        start, end = self.classifier(self.bert(input_ids, token_type_ids, attention_mask)).unbind(-1)
        return start, end


class RaceTask(nn.Module):
    """Logits (N, options), one score an option, by the head that the config names; see heads.py.

    Separate layout: each option has a row, ids (N, options, S). Joint: a question's options stand in one row, ids (N, S),
    and ``markers`` (N, options) say where each begins; an option sees article, question and itself, at the positions
    that it would have alone. ``parts``, shaped like the ids, tells passage, question and option apart, which the heads
    "duma" and "dcmn" need. Where questions have differently many options, ``option_mask`` (N, options) is True on them,
    and a logit elsewhere is -inf. With ``labels`` (N,) the summed cross-entropy instead. ``option_places`` (R,), the true
    places of ``option_mask``, and ``longest`` (heads.Options) can be had from the rest, but a GPU must be asked for them.
    """

    def __init__(self, config: BertConfig):
        super().__init__()
        self.bert = BertModel(config, pooler=config.head == "cls")
        self.dropout = Dropout(config.head_dropout)
        width = config.hidden_size
        if config.head != "cls":
            head = heads.HEADS[config.head](config)
            head.apply(self.bert.initialise)
            for module in head.modules():
                getattr(module, "initialise", lambda: None)()
            self.add_module(config.head, head)
            width = head.width
        self.classifier = nn.Linear(width, 1)
        self.bert.initialise(self.classifier)

    def forward(self, input_ids, token_type_ids=None, attention_mask=None, parts=None, markers=None, labels=None,
                option_mask=None, option_places=None, longest=None):  # fmt: skip
        if option_mask is not None and option_places is None:
            option_places = option_mask.flatten().nonzero()[:, 0]
        most = (input_ids if markers is None else markers).size(1)
        options = heads.Options(most, option_mask, option_places, longest)
        read = self.separate if markers is None else self.joint
        states, firsts, parts = read(input_ids, token_type_ids, attention_mask, parts, markers, options)
        name = self.bert.config.head
        if name == "cls":
            features = self.bert.pool(firsts[-1])
        elif name == "mix":
            features = self.mix(torch.stack(firsts))
        elif parts is None:
            raise ValueError(f"the head {name} needs parts: which tokens are passage, question and option")
        else:
            features = getattr(self, name)(states, parts, options)
        if labels is None:
            return self.scores(features, options)
        samples = self.mix.SAMPLES if name == "mix" and self.training else 1
        losses = [F.cross_entropy(self.scores(features, options).float(), labels, reduction="sum") for _ in range(samples)]
        return sum(losses) / samples

    def scores(self, features, options):
        return heads.by_question(self.classifier(self.dropout(features))[:, 0], options, -torch.inf)

    def layers(self):
        """How many of the last layers the head reads."""
        return len(self.mix.weights) if self.bert.config.head == "mix" else 1

    def separate(self, *inputs):
        """For each option its row's states (R, S, D), first tokens (a list of (R, D)) and parts.

        Where the head reads first tokens only, there are no states of others.
        """
        ids, types, mask, parts = (None if x is None else heads.rows_of(x, inputs[-1]) for x in inputs[:4])
        if self.bert.config.head in ("cls", "mix"):
            return None, self.bert(ids, types, mask, last=self.layers(), places=first_places(ids)), parts
        states = self.bert(ids, types, mask)
        return states, [states[:, 0]], parts

    def joint(self, input_ids, token_type_ids, attention_mask, parts, markers, options):
        """The same from rows that all options of a question share."""
        n, length = input_ids.shape
        position_ids, visible, own = heads.joint_views(markers, length)
        if attention_mask is not None:
            visible = visible & attention_mask[:, None].bool()
            position_ids = position_ids * attention_mask  # what lies behind a short row could leave the position table
        row, column = torch.arange(n, device=markers.device)[:, None], markers.clamp(max=length - 1)
        places = heads.rows_of(row * length + column, options)  # (R,), of the options' first tokens
        parts = None if parts is None else heads.rows_of(parts[:, None] * own, options)
        inputs = (input_ids, token_type_ids, visible, position_ids)
        if self.bert.config.head in ("cls", "mix"):
            return None, self.bert(*inputs, last=self.layers(), places=places), parts
        states = self.bert(*inputs)
        return heads.rows_of(states[:, None].expand(-1, markers.size(1), -1, -1), options), [at(states, places)], parts


TASKS = {cls.__name__: cls for cls in (MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask)}
