"""The file format of results of words: every word's result in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from dpid.results.file_format import FORMAT, fields_of, from_json, parse
from dpid.results.result import PIDResult
from dpid.results.word import REST, Word


def to_bytes(words: Mapping[str, Word], unet_evaluations: int, numbers: Mapping[str, Any]) -> bytes:
    """The bytes of a safetensors file with ``numbers`` in its header.

    The tensors of word n are named "n/…", those of the first have the picture.
    """
    from safetensors.torch import save

    tensors, entries = {}, []
    for n, word in enumerate(words.values()):
        for name, tensor in word.pid.tensors().items():
            if name != "picture" or not n:
                tensors[f"{n}/{name}"] = tensor.detach().cpu().clone()  # the edges are shared
        own = {"margin": word.margin, "partner": word.partner, "outdated": word.outdated}
        entries.append({"metadata": asdict(word.pid.metadata), **own})
    stored = {"words": entries, "unet_evaluations": unet_evaluations}
    header = {"format": FORMAT, "words": json.dumps(stored), "result": json.dumps(numbers)}
    return bytes(save(tensors, header))


def from_bytes(data: bytes) -> dict[str, Any]:
    """The fields {name: value} of the result that :func:`to_bytes` wrote; ``ValueError`` for any other content."""
    tensors, header = parse(data)
    if header.get("format") == FORMAT and "metadata" in header:
        raise ValueError("has the result of an explanation, which dpid.PIDResult.load reads")
    if header.get("format") != FORMAT or "words" not in header:
        raise ValueError(f"is not a dpid result of words of format {FORMAT}")
    stored = from_json("words", header)
    if not isinstance(stored, dict) or not isinstance(stored.get("words"), list) or not stored["words"]:
        raise ValueError("words: expected an object of JSON with a list of words")
    evaluations = stored.get("unet_evaluations")
    if type(evaluations) is not int or evaluations < 0:
        raise ValueError(f"words: unet_evaluations is {evaluations!r}, expected a whole number")
    words: dict[str, Word] = {}
    for n, entry in enumerate(stored["words"]):
        start = f"{n}/"
        own = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        word = _word(own, entry)
        if n and (first := next(iter(words.values())).pid.picture) is not None:
            word = replace(word, pid=replace(word.pid, picture=first))
        words[word.text] = word
    return {"words": words, "unet_evaluations": evaluations}


def _word(tensors: dict[str, Any], entry: Any) -> Word:
    """A word from its tensors and its entry in the header; ``ValueError`` if they do not fit."""
    if not isinstance(entry, dict):
        raise ValueError(f"words: found {type(entry).__name__}, expected objects of JSON")
    margin, partner, outdated = entry.get("margin"), entry.get("partner"), entry.get("outdated")
    if type(margin) is not float or not 0 < margin < 1 or not isinstance(partner, str):
        raise ValueError(f"words: found margin {margin!r} and partner {partner!r}, expected a share and a text")
    if type(outdated) is not bool:
        raise ValueError(f"words: found outdated {outdated!r}, expected true or false")
    pid = PIDResult(**fields_of(tensors, entry.get("metadata")))
    if len(pid.metadata.concepts) != 2 or pid.metadata.concepts[1] != REST:
        raise ValueError(f"words: concepts are {pid.metadata.concepts!r}, expected a word and {REST!r}")
    return Word(pid, margin, partner, outdated)
