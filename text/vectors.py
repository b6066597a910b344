"""From lines of text to a vector each: the mean of its tokens' states, or the state of the first token.

    vectors = line_vectors(model, tokenizer, lines)                    # (lines, D), fp32; model is a BertModel
    write_vectors("vectors.npy", "lines.txt", model, tokenizer)        # of a file of any length

Lines of similar length come together, as long as that keeps few of them in memory.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from files.mistakes import UserError, warn
from files.reading import CONVERT
from files.tables import lines
from files.writing import atomic_write
from text.batches import evaluation_batches, pad_rows
from text.tokenizer import Tokenizer

POOLS = ("mean", "cls")
GROUP = 8192  # lines in memory at a time


@torch.inference_mode()
def line_vectors(
    model: Any, tokenizer: Tokenizer, texts: list[str], pool: str = "mean", longest: int | None = None,
    batch_size: int = 32,
) -> np.ndarray:  # fmt: skip
    """(len(texts), D), fp32; what is over ``longest`` tokens (default: the model's positions) is cut, and a line says so.

    Computed where the model's weights are; the mean is over all tokens, [CLS] and [SEP] too.
    """
    room = (longest or model.config.max_position_embeddings) - 2
    whole = [tokenizer.encode_ids(text) for text in texts]
    if any(len(ids) > room for ids in whole):
        warn(f"lines of more than {room + 2} tokens, which is what the model reads, are cut")
    rows = [np.array(ids[:room], np.int64) for ids in whole]
    device = model.embedding.embed.weight.device
    vectors = np.empty((len(rows), model.config.hidden_size), np.float32)
    for numbers in evaluation_batches(len(rows), batch_size, np.array([len(row) for row in rows])):
        batch = {name: part.to(device) for name, part in pad_rows([(rows[i], None) for i in numbers], tokenizer).items()}
        states, mask = model(**batch), batch["attention_mask"][..., None]  # (N, S, D), (N, S, 1)
        pooled = states[:, 0] if pool == "cls" else (states * mask).sum(1) / mask.sum(1)
        vectors[numbers] = pooled.float().cpu().numpy()
    return vectors


def write_vectors(
    output: str | Path, source: str | Path, model: Any, tokenizer: Tokenizer, pool: str = "mean",
    longest: int | None = None,
) -> tuple[int, int]:  # fmt: skip
    """Write a vector for each line of a UTF-8 file, also .gz or .zst, to a .npy file; gives its shape.

    The file is read twice, first to count its lines, so that neither it nor the vectors need be held.
    """
    count = sum(1 for _ in texts_of(source))
    if not count:
        raise UserError(f"{source}: no lines; give a text for each vector")
    shape, model = (count, model.config.hidden_size), model.eval()
    with atomic_write(output) as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
        texts, left = texts_of(source), count
        while group := list(itertools.islice(texts, GROUP)):
            stream.write(line_vectors(model, tokenizer, group, pool, longest).astype("<f4").tobytes())
            left -= len(group)
        if left:
            raise UserError(f"{source}: is a pipe, or was changed while it was read; give a file, and again")
    return shape


def texts_of(source: str | Path) -> Iterator[str]:
    for number, line in enumerate(lines(Path(source)), 1):
        yield decoded(line, number, source).rstrip("\r")


def decoded(line, number, source):
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: line {number}: not UTF-8 at its byte {error.start}; {CONVERT}") from None
