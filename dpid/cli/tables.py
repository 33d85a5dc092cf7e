"""The tables that are printed: one explanation, every pair of concepts, and every word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from dpid.results.result import PIDResult
    from dpid.results.words import Result, WordsResult

SYMBOLS = {"shrinkage": "i", "rao-blackwell": "iʳ", "standard": "iˢ", "orthogonal": "i°"}
_ATOMS = 8  # the largest atoms of three concepts and more that the table shows; result.json has all
_ATOM = "Atom: what each group of words in braces tells by itself, and no words tell without one of these groups."
COLOURS = {"used": "green", "works only with others": "cyan", "redundant": "yellow", "misleading": "red"}  # of verdicts
_NARROWEST = 60  # columns of a table whose numbers can be read


def table_console() -> Console:
    """Where tables are printed; a line too short for a number wraps, and shows it all."""
    console = Console(markup=False)  # brackets are the user's
    console.width = max(console.width, _NARROWEST)
    return console


def note(console: Console, text: str, wrap: bool = True) -> None:
    """Print ``text`` as a note; without ``wrap`` in one line, however long."""
    console.print(f"note: {text}", style="yellow", highlight=False, soft_wrap=not wrap)


def show_result(result: PIDResult, out: Path) -> None:
    """Print the numbers of the chosen estimator and of iʳ and iˢ side by side, and what to make of them."""
    console = table_console()
    names = list(dict.fromkeys([result.metadata.estimator, "rao-blackwell", "standard"]))
    given = " (given the rest of the prompt)" if result.metadata.context else ""
    unit = result.metadata.unit
    table = Table(title=f"“{result.metadata.prompt}”{given}, {unit} ± standard error", title_justify="left")
    table.add_column("", overflow="fold")  # an atom whose end is cut could be any of several
    for name in names:
        table.add_column(f"{SYMBOLS[name]} {name}", justify="right")
    shown = [result.estimates[name] for name in names]
    few = len(result.metadata.concepts) <= 3
    for subset in [s for s in result.information if few or len(s) in (1, len(result.metadata.concepts))]:
        table.add_row(f"i(x; {', '.join(subset)})", *(str(d.information[subset]) for d in shown))
    table.add_section()
    table.add_row("redundancy", *(str(d.redundancy) for d in shown))
    for concept in result.metadata.concepts:
        table.add_row(f"unique: {concept}", *(str(d.unique[concept]) for d in shown))
    table.add_row("synergy", *(str(d.synergy) for d in shown))
    atoms = result.decomposition.atoms
    if len(result.metadata.concepts) > 2 and atoms:
        largest = sorted(atoms, key=lambda a: -abs(atoms[a].value))[:_ATOMS]
        table.add_section()
        heading = "atoms" if len(atoms) <= _ATOMS else f"the {_ATOMS} largest of {len(atoms)} atoms"
        table.add_row(Text(heading, style="italic"))
        for atom in largest:
            # A line that is too long ends between two groups, or two concepts.
            name = " ".join(f"{{{' + '.join(concepts)}}}" for concepts in atom)
            table.add_row(name, *(str(d.atoms.get(atom, "")) for d in shown))
        table.caption, table.caption_justify = _ATOM, "left"
    console.print(table)
    for line in result.remarks():
        note(console, line)
    _written(console, result, out, ("maps.png", "profile.png", "result.json", "result.safetensors"))


def show_pairs(results: Mapping[tuple[str, str], PIDResult], prompt: str, out: Path) -> None:
    """Print a table of all pairs, and what to make of each."""
    from dpid.results.result import ranked

    first = next(iter(results.values()))
    unit = first.metadata.unit
    table = Table(title=f"“{prompt}”, every pair, {unit} ± standard error", title_justify="left")
    for column in ("pair", "redundancy", "unique, first", "unique, second", "synergy"):
        table.add_column(column, justify="left" if column == "pair" else "right")
    for pair in ranked(results):
        result = results[pair]
        numbers = (result.redundancy, *result.unique.values(), result.synergy)
        table.add_row(" + ".join(pair), *map(str, numbers))
    console = table_console()
    console.print(table)
    for pair, result in results.items():
        for line in result.remarks():
            note(console, f"{' + '.join(pair)}: {line}")
    synergy = ", ".join(" + ".join(pair) for pair in ranked(results, "synergy")[:3])
    console.print(f"most synergy: {synergy}; {_cost(first)}; folders and graph.png: {out}/")


def _cost(result: Result) -> str:
    """How often which model was evaluated."""
    return f"{result.metadata.unet_evaluations} evaluations of {result.metadata.model}"


def _written(console: Console, result: Result, out: Path, names: Sequence[str]) -> None:
    """Print what a result cost, and which of the files ``names`` are in ``out``."""
    console.print(f"{_cost(result)}; written: {out}/{', '.join(n for n in names if (out / n).is_file())}")


def show_words(result: WordsResult, out: Path) -> None:
    """Print a table of all words with their verdicts, "?" where one is not settled, and what to know of them."""
    from dpid.results.word import verdict

    table = Table(title=f"“{result.metadata.prompt}”, {result.metadata.unit} ± standard error", title_justify="left")
    for column in ("word", "verdict", "alone", "given the rest", "unique, by pixel"):
        table.add_column(column, justify="left" if column in ("word", "verdict") else "right")
    for name, word in result.words.items():
        told = Text(verdict(word, "?"), style=COLOURS.get(word.verdict, "dim"))
        table.add_row(name, told, *map(str, (word.alone, word.given_rest, word.unique)))
    console = table_console()
    console.print(table)
    for line in result.remarks():
        note(console, line)
    _written(console, result, out, ("words.png", "words.json", "words.safetensors"))
