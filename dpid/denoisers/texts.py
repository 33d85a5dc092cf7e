"""Refuses texts that a tokenizer would truncate, or some words of which it does not know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def refuse_text(tokens: int, limit: int, cut: str, unknown: Sequence[str], known: Sequence[str]) -> None:
    """Raise ``ValueError`` for a text of more ``tokens`` than ``limit``, or one with ``unknown`` words.

    For the message: ``cut``, the end of the text that would be truncated, and ``known``, the tokenizer's vocabulary.
    """
    if tokens > limit:
        raise ValueError(
            f"prompt: {tokens} tokens, but the text encoder takes {limit}; {cut!r} would be cut: shorten it"
        )
    if unknown:
        words = sorted(w for w in known if w.isalpha())
        listed = ", ".join(words) if len(words) <= 200 else f"{len(words)} words"
        raise ValueError(f"prompt: this model does not know {', '.join(map(repr, unknown))}; it knows {listed}")


def check_text(tokenizer: Any, limit: int, text: Any) -> None:
    """Raise ``ValueError`` if ``text`` has more than ``limit`` tokens, or words that ``tokenizer`` does not know."""
    ids = tokenizer(text, verbose=False).input_ids  # its warning of a long prompt is an error below
    cut = tokenizer.decode(ids[limit - 1 : -1]).strip() if len(ids) > limit else ""
    unknown = tokenizer.unk_token_id
    words = []
    if unknown is not None and unknown not in (tokenizer.eos_token_id, tokenizer.pad_token_id) and unknown in ids:
        words = [w for w in text.split() if unknown in tokenizer(w, add_special_tokens=False).input_ids]
    refuse_text(len(ids), limit, cut, words, list(tokenizer.get_vocab()) if words else ())


def check_kind(conditions: Sequence[Any]) -> None:
    """Raise ``TypeError`` unless all ``conditions`` are texts; embeddings, for one, are not."""
    for text in conditions:
        if not isinstance(text, str):
            raise TypeError(f"conditions: found {type(text).__name__}, expected texts")
