"""Texts before and after their encoding: what is refused, the row of the empty text, and padding that is cut off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dpid.images import ImageCondition

# Key of encodings beside the network's arguments: the number of tokens of every text, [K] int64 on the CPU, where they
# differ. Arguments with a dimension for tokens are padded behind them.
LENGTHS = "lengths"
# Caveat of families whose training left out words without making the text shorter; {} is the model's name.
SHORT_NULL = (
    "{} was trained with no text as long as the caption that it stood for, and its pipeline gives one token: what the "
    "model predicts without words, to which every number compares, may be less well learned"
)


def refuse_text(
    tokens: int, limit: int, cut: str, unknown: Sequence[str], known: Sequence[str], encoder: str = "the text encoder"
) -> None:
    """Raise ``ValueError`` for a text of more ``tokens`` than ``limit``, or one with ``unknown`` words.

    For the message: ``cut``, the end of the text that would be truncated, ``known``, the tokenizer's vocabulary, and
    ``encoder``, whose limit it is.
    """
    if tokens > limit:
        raise ValueError(f"prompt: {tokens} tokens, but {encoder} takes {limit}; {cut!r} would be cut: shorten it")
    if unknown:
        words = sorted(w for w in known if w.isalpha())
        listed = ", ".join(words) if len(words) <= 200 else f"{len(words)} words"
        raise ValueError(f"prompt: this model does not know {', '.join(map(repr, unknown))}; it knows {listed}")


def check_text(tokenizer: Any, limit: int, text: Any, encoder: str = "the text encoder") -> None:
    """Raise ``ValueError`` if ``text`` has more than ``limit`` tokens, or words that ``tokenizer`` does not know.

    Unknown words are those of a vocabulary of whole words. Others have an unknown token for a rare character, which
    their pipelines take.
    """
    ids = tokenizer(text, verbose=False).input_ids  # its warning of a long prompt is an error below
    cut = tokenizer.decode(ids[limit - 1 : -1]).strip() if len(ids) > limit else ""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    unknown, words = tokenizer.unk_token_id, []
    if type(model).__name__ == "WordLevel" and unknown in ids:
        words = [w for w in text.split() if unknown in tokenizer(w, add_special_tokens=False).input_ids]
    refuse_text(len(ids), limit, cut, words, list(tokenizer.get_vocab()) if words else (), encoder)


def check_kind(conditions: Sequence[Any], pictures: bool) -> None:
    """Raise ``TypeError`` unless all ``conditions`` are texts or pictures; embeddings, for one, are not.

    ``pictures``: whether the model takes them, else they raise ``ValueError``.
    """
    for condition in conditions:
        if isinstance(condition, ImageCondition) and not pictures:
            raise ValueError(
                f"conditions: found {str(condition)!r}, but this model takes texts alone; with load_ip_adapter() a "
                "pipeline of Stable Diffusion 1, 2 or XL takes a picture beside them"
            )
        if not isinstance(condition, (str, ImageCondition)):
            raise TypeError(f"conditions: found {type(condition).__name__}, expected texts")


def text_of(condition: str | ImageCondition) -> str:
    """The text of a condition."""
    return condition if isinstance(condition, str) else condition.text


@contextmanager
def padding_kept(tokenizers: Iterable[Any]) -> Iterator[None]:
    """A context after which ``tokenizers`` pad on the side on which they did before: some pipelines change it."""
    sides = [(tokenizer, tokenizer.padding_side) for tokenizer in tokenizers if hasattr(tokenizer, "padding_side")]
    try:
        yield
    finally:
        for tokenizer, side in sides:
            tokenizer.padding_side = side


def with_null(texts: Sequence[str], found: Tensor, null: Tensor) -> Tensor:
    """The rows of ``found`` [K,…], those of ``null`` [K,…] where a text is empty; zeros pad the shorter of the two."""
    if found.shape[1:] != null.shape[1:]:
        length = max(found.shape[1], null.shape[1])
        found, null = (_padded(rows, length) for rows in (found, null))
    empty = torch.tensor([not text.strip() for text in texts], device=found.device)
    return torch.where(empty.view(-1, *(1,) * (found.ndim - 1)), null, found)


def _padded(rows: Tensor, length: int) -> Tensor:
    """``rows`` [K,L,…] with zeros behind, [K,length,…]."""
    return functional.pad(rows, (0, 0) * (rows.ndim - 2) + (0, length - rows.shape[1]))


def unmasked(rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of ``rows`` [K,L,…] where ``mask`` [K,L] is above 0, moved to the front, and their numbers [K].

    The rows are as long as the longest of them, zeros behind.
    """
    return stacked([row[keep] for row, keep in zip(rows, mask > 0, strict=True)])


def stacked(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """K rows [L_k,…] as one tensor [K,L,…] with zeros behind the shorter, and their lengths [K] on the CPU."""
    lengths = torch.tensor([len(row) for row in rows])
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), lengths


def by_length(encoded: Mapping[str, Tensor], cut: str) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """For every number of tokens: the indices of the conditions that have it, and their encodings without padding.

    ``cut``: the argument that has padding. Encodings without ``LENGTHS`` are one group. Rows are picked without making
    the host wait for a GPU.
    """
    if LENGTHS not in encoded:
        yield list(range(len(next(iter(encoded.values()))))), dict(encoded)
        return
    lengths = encoded[LENGTHS].tolist()
    for length in dict.fromkeys(lengths):
        picked = [k for k, own in enumerate(lengths) if own == length]
        yield (
            picked,
            {
                name: torch.stack([rows[k, :length] if name == cut else rows[k] for k in picked])
                for name, rows in encoded.items()
                if name != LENGTHS
            },
        )
