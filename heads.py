"""What scores the options of a question (``--head``), beside BERT's own pooled first token ("cls", in model.py).

    features = Duma(config)(states, parts, options)     # (R, S, D), (R, S) -> (R, Duma.width)

R rows, one for each option of N questions, of S tokens of width D = hidden_size. ``parts`` (R, S) says what a token is:
PASSAGE, QUESTION, OPTION, or something else ([CLS], [SEP], padding), which no head reads. ``options`` is how many each
question has, R = N * options, or where they differ which there are: True in (N, most), with a row for each True.
RaceTask turns the features into one score a row. Design choices:

- A part is a mask, not a slice: where an option fills a question's blank, the question stands on both sides of it.
- Every mean, maximum and softmax is over the tokens of a part alone. A part without tokens (a hidden article, a question
  that was cut) gives zeros instead of not-a-numbers.
- The tokens of a part are moved together first: the products between a passage and a question then cost what these
  take, not S times S.
- An option that is not there has no row, so that it costs nothing and can get nothing.
"""

import torch
import torch.nn as nn

PASSAGE, QUESTION, OPTION, MARKER = 1, 2, 3, 4  # of the joint layout, the token that stands for an option


def rows_of(x: torch.Tensor, options: int | torch.Tensor) -> torch.Tensor:
    """(N, options, ...) -> (R, ...): a row for each option that there is."""
    return x.flatten(0, 1) if isinstance(options, int) else x[options]


def by_question(x: torch.Tensor, options: int | torch.Tensor, nothing: float = 0.0) -> torch.Tensor:
    """(R, ...) -> (N, options, ...), with ``nothing`` where there is no option."""
    if isinstance(options, int):
        return x.unflatten(0, (-1, options))
    return x.new_full((*options.shape, *x.shape[1:]), nothing).index_put((options,), x)


def take(states, mask):
    """The tokens where ``mask`` (R, S) holds, in their order: (R, S, D) -> (R, L, D) and what of it is real, (R, L).

    L is the number of tokens in the row that has most of them.
    """
    length = max(1, int(mask.sum(1).max()))
    order = mask.int().argsort(dim=1, descending=True, stable=True)[:, :length]
    return states.gather(1, order[..., None].expand(-1, -1, states.size(-1))), mask.gather(1, order)


def masked_softmax(scores, mask):
    """Over the last dimension, where ``mask`` (broadcast) holds; zeros where it holds nowhere."""
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1) * mask


def masked_mean(x, mask):
    """(R, L, D) -> (R, D), over the tokens where ``mask`` (R, L) holds; zeros where it holds nowhere."""
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


class CrossAttention(nn.Module):
    """MHA(query x, key and value y) of H heads (Vaswani et al. 2017, section 3.2.2): (R, L, D), (R, M, D) -> (R, L, D).

    No residual connection and no norm. The encoder's attention has one source and one fused product for all three
    projections; this has two sources, either of which may be empty.
    """

    def __init__(self, config):
        super().__init__()
        self.heads = config.num_attention_heads
        self.query, self.value, self.output = (nn.Linear(config.hidden_size, config.hidden_size) for _ in range(3))
        self.key = nn.Linear(config.hidden_size, config.hidden_size, bias=False)  # the softmax would cancel a bias

    def forward(self, x, y, mask):
        def split(z):
            return z.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (R, H, length, d)

        query, key, value = split(self.query(x)), split(self.key(y)), split(self.value(y))
        weights = masked_softmax(query @ key.transpose(-2, -1) * query.size(-1) ** -0.5, mask[:, None, None])
        return self.output((weights.to(value.dtype) @ value).transpose(1, 2).flatten(2))


class Duma(nn.Module):
    """Dual multi-head co-attention (Zhu et al. 2020, arXiv 2001.09415, section 3).

    With E_P (R, P, D) the passage's states and E_QA (R, A, D) those of question and option,

        O1 = MHA(query E_QA, key and value E_P),    O2 = MHA(query E_P, key and value E_QA),
        features = [mean of O1; mean of O2]                                                     (R, 2 D)

    by the same MHA in both directions. ``duma_layers`` above 1 stacks it: O1 takes the place of E_QA and O2 that of
    E_P; each layer has weights of its own.
    """

    def __init__(self, config):
        super().__init__()
        self.width = 2 * config.hidden_size
        self.layers = nn.ModuleList(CrossAttention(config) for _ in range(config.duma_layers))

    def forward(self, states, parts, options):
        passage, passage_mask = take(states, parts == PASSAGE)
        asked, asked_mask = take(states, (parts == QUESTION) | (parts == OPTION))
        for attend in self.layers:
            asked, passage = attend(asked, passage, passage_mask), attend(passage, asked, asked_mask)
        return torch.cat([masked_mean(asked, asked_mask), masked_mean(passage, passage_mask)], -1)


def start_as_dot_product(linear):
    """x W yᵀ begins as x yᵀ / sqrt(D): equal words find each other, and the softmax is not saturated at any width."""
    nn.init.eye_(linear.weight)
    linear.weight.data *= linear.in_features**-0.5


class Match(nn.Module):
    """Two texts x (R, L, D) and y (R, M, D) matched in both directions -> (R, D); the inner part of Dcmn.

        E_x = softmax(x W yᵀ) y,    E_y = softmax(y W xᵀ) x
        m_x = max over tokens of ReLU(E_x W1),    m_y = max over tokens of ReLU(E_y W2)
        g = sigmoid(W3 m_x + W4 m_y + b),    g * m_x + (1 - g) * m_y
    """

    def __init__(self, width):
        super().__init__()
        self.compare, self.first, self.second, self.gate_first = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )  # W, W1, W2, W3
        self.gate_second = nn.Linear(width, width)  # W4, b

    def initialise(self):
        start_as_dot_product(self.compare)

    def side(self, x, x_mask, y, y_mask, linear):
        """m_x (R, D); what ReLU gives is at least 0, so a 0 on padding leaves the maximum as it is."""
        weights = masked_softmax(self.compare(x) @ y.transpose(1, 2), y_mask[:, None])  # (R, L, M)
        return torch.relu(linear(weights.to(y.dtype) @ y)).masked_fill(~x_mask[..., None], 0).amax(1)

    def forward(self, x, x_mask, y, y_mask):
        first, second = self.side(x, x_mask, y, y_mask, self.first), self.side(y, y_mask, x, x_mask, self.second)
        gate = torch.sigmoid(self.gate_first(first) + self.gate_second(second))
        return gate * first + (1 - gate) * second


class Comparison(nn.Module):
    """Each option's tokens o_i (L, D) with what the other options of its question have to do with them; Dcmn's second part.

        H_ij = ReLU(softmax(o_i W o_jᵀ) o_j),    H_i = (mean of H_ij over j other than i) W1
        g = sigmoid(o_i W2 + H_i W3 + b),    o_i becomes g * o_i + (1 - g) * H_i

    The paper concatenates the H_ij before W1, by which the order of the options would count; hence the mean.
    """

    def __init__(self, width):
        super().__init__()
        self.compare, self.others, self.gate_own = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.gate_others = nn.Linear(width, width)

    def initialise(self):
        start_as_dot_product(self.compare)

    def forward(self, x, mask, options):
        own, real = by_question(x, options), by_question(mask, options)  # (N, options, L, D), (N, options, L)
        scores = torch.einsum("nild,njmd->nijlm", self.compare(own), own)
        weights = masked_softmax(scores, real[:, None, :, None]).to(own.dtype)
        related = torch.relu(torch.einsum("nijlm,njmd->nijld", weights, own))
        most = own.size(1)
        share = (1 - torch.eye(most, device=x.device, dtype=related.dtype)) / max(1, most - 1)
        if not isinstance(options, int):  # what is not there is 0 in ``related``, and does not count
            count = (options.sum(1).to(related.dtype) - 1).clamp(min=1)
            related = related * (max(1, most - 1) / count)[:, None, None, None, None]
        others = self.others(torch.einsum("nijld,ij->nild", related, share))
        gate = torch.sigmoid(self.gate_own(own) + self.gate_others(others))
        return rows_of(gate * own + (1 - gate) * others, options)


class Dcmn(nn.Module):
    """Dual co-matching network (Zhang et al. 2019, arXiv 1908.11511): features (R, 3 D).

    The Matches of (passage, question), (passage, option) and (question, option), each with weights of its own,
    concatenated. With ``compare_options`` the options first take note of each other, by Comparison.
    """

    def __init__(self, config):
        super().__init__()
        self.width = 3 * config.hidden_size
        self.pairs = nn.ModuleList(Match(config.hidden_size) for _ in range(3))
        self.comparison = Comparison(config.hidden_size) if config.compare_options else None

    def forward(self, states, parts, options):
        passage, question, option = (take(states, parts == part) for part in (PASSAGE, QUESTION, OPTION))
        if self.comparison is not None:
            option = self.comparison(*option, options), option[1]
        pairs = (passage, question), (passage, option), (question, option)
        return torch.cat([match(*x, *y) for match, (x, y) in zip(self.pairs, pairs, strict=True)], -1)


class Mix(nn.Module):
    """The first token's states in the last k layers, mixed: sum over layers of softmax(w)_l h_l, (k, R, D) -> (R, D).

    The mix is that of ELMo (Peters et al. 2018, arXiv 1802.05365, section 3.2) without its factor; k is ``mix_layers``
    or, in a shallower body, all layers. RaceTask trains it with multi-sample dropout (Inoue 2019, arXiv 1905.09788): the
    mean loss of SAMPLES dropout masks over one forward pass of the body.
    """

    SAMPLES = 5

    def __init__(self, config):
        super().__init__()
        self.width = config.hidden_size
        self.weights = nn.Parameter(torch.zeros(min(config.mix_layers, config.num_hidden_layers)))

    def forward(self, firsts):
        return torch.einsum("k,krd->rd", self.weights.softmax(0), firsts)


HEADS = {"duma": Duma, "dcmn": Dcmn, "mix": Mix}


def joint_views(markers: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How the tokens of rows in the joint layout see each other, from where the options begin: ``markers`` (N, options).

    A row is article and question, then the options one after another. Gives ``position_ids`` (N, S), in which each
    option begins where the first one does; ``visible`` (N, S, S), True where a token may look at another: every one at
    article and question, an option's at those of the same option too; and ``own`` (N, options, S), True at what belongs
    to an option: article, question and itself. So options that change places only change the order of their scores. An
    option that is not there has its marker behind the row, at S.
    """
    place = torch.arange(length, device=markers.device)
    number = (place[:, None] >= markers[:, None]).sum(-1)  # (N, S): 0 article and question, then 1, 2, ... the options
    begins = torch.cat([markers[:, :1], markers], 1).gather(1, number)
    position_ids = place - begins + markers[:, :1]
    shared = (number == 0)[:, None]  # (N, 1, S)
    visible = shared | (number[:, None] == number[..., None])
    own = shared | (number[:, None] == torch.arange(1, markers.size(1) + 1, device=markers.device)[:, None])
    return position_ids, visible, own
