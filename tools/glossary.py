"""The guide to the series, notebooks/README.md: its glossary and its references, held against the notebooks."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

CHINESE = re.compile(r"[\u4e00-\u9fff]")
GIVEN = re.compile(r"[(,] ?((?:[A-Z]\w* )?[\u4e00-\u9fff]+)[,;)]")  # a Chinese term in brackets after an English one
PLACE = re.compile(r"\[(\d\d\w?)(?:, ([^\]]+))?\]\(([^)\s]+)\)")
ARXIV_LINK = re.compile(r"\[([^\]]+)\]\(https://arxiv\.org/abs/([^)]+)\)")


@dataclass(frozen=True)
class Chapter:
    """What a numbered notebook says; what every row of a table asks of it is looked up once."""

    file: str
    prose: str  # its Markdown
    text: str  # all its cells

    @property
    def number(self):
        return self.file.split("_")[0]

    @cached_property
    def plain(self):
        return _plain(self.prose)

    @cached_property
    def headings(self):
        return re.findall(r"(?m)^##+ (.*)", self.prose)

    @cached_property
    def arxiv(self):
        return {re.sub(r"v\d+$", "", number) for number in cited(self.text)}


class Row(NamedTuple):
    """One row of a table of the guide."""

    line: int
    cells: list[str]

    @property
    def place(self):
        return f", line {self.line} ({self.cells[0][:50]!r})"


def cited(text):
    """The arXiv numbers that a text cites, as they stand there."""
    found = re.findall(r"(?i)\barxiv(?:\.org/(?:abs|pdf)/|[: ]+)([\w./-]*\d[\w./-]*)", text)
    return [number.rstrip(".").removesuffix(".pdf") for number in found]


def check_guide(text, notebooks):
    """(place, what is wrong) of the guide's tables, from its text and the notebooks, a dict of file names."""
    chapters = [
        Chapter(
            file,
            "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown"),
            "\n".join(cell.source for cell in nb.cells),
        )
        for file, nb in notebooks.items()
    ]
    yield from _table(text, "Glossary", ("term", "Chinese", "meaning", "place"), _glossary, chapters)
    yield from _table(text, "References", ("authors", "year", "title", "arXiv", "chapters"), _references, chapters)


def _table(text, heading, columns, rule, chapters):
    rows, inside = [], False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("#"):
            inside = line.lstrip("#").strip() == heading
        elif inside and line.startswith("|"):
            rows.append(Row(number, [cell.strip() for cell in line.strip()[1:].removesuffix("|").split("|")]))
    rows = rows[2:]  # below the table's head and its line of dashes
    if not rows:
        yield "", f"has no table below the heading {heading!r}: add it ({' | '.join(columns)})"
    whole = [row for row in rows if len(row.cells) == len(columns) and all(row.cells)]
    for row in rows:
        if row not in whole:
            yield row.place, f"is not a row of {len(columns)} filled cells ({' | '.join(columns)}): mend it"
    yield from rule(whole, chapters)


def _order(rows, width):
    """Rows that stand twice, or out of order, by their first `width` cells; accents and capitals count for nothing."""
    for before, row in pairwise(rows):
        first, second = ([_letters(cell) for cell in each.cells[:width]] for each in (before, row))
        if first == second:
            yield row.place, "stands twice: keep one row"
        elif first > second:
            yield row.place, f"comes after {before.cells[0]!r}: sort the rows"


def _letters(text):
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()


# ---------------------------------------------------------------- the glossary


def _glossary(rows, chapters):
    by_file = {chapter.file: chapter for chapter in chapters}
    for row in rows:
        term, chinese, _, where = row.cells
        if not CHINESE.search(chinese):
            yield row.place, "has no Chinese term: add the usual one"
        if not PLACE.search(where) or PLACE.sub("", where).strip("; "):
            yield row.place, f"{where!r} is no place: write [01, eq. (4)](01_x.ipynb) or [01, section 2](01_x.ipynb)"
        for number, spot, file in PLACE.findall(where):
            if file not in by_file:
                yield row.place, f"{file} is no notebook of the series: mend the link"
            elif by_file[file].number != number:
                yield row.place, f"the link says {number} and leads to {file}: mend one of them"
            else:
                yield from ((row.place, what) for what in _taught(term, chinese, spot, by_file[file]))
    yield from _order(rows, 1)
    for chapter in chapters:
        for given in sorted(set(GIVEN.findall(re.sub(r"(?s)```.*?```|`[^`\n]*`", " ", chapter.prose)))):
            if not any(given in row.cells[1] for row in rows):
                yield "", f"no row has {given}, the Chinese term that {chapter.file} gives: add a row, or use one term"


def _taught(term, chinese, spot, chapter):
    """What is wrong if the chapter does not use the term, or lacks the equations or the section named in `spot`."""
    names = [name.strip() for name in re.split(r"[,()]", chinese) if CHINESE.search(name)]
    used = re.search(rf"(?<!\w){re.escape(_plain(term))}(e?s)?(?!\w)", chapter.plain)
    if not used and not any(name in chapter.prose for name in names):
        yield f"{chapter.file} uses neither the English nor the Chinese term in its text: name the chapter that does"
    if spot.startswith("eq. "):
        for equation in re.findall(r"\((\w+)\)", spot):
            if rf"\tag{{{equation}}}" not in chapter.prose:
                yield f"{chapter.file} has no equation ({equation}): mend the number"
    elif spot:
        start = spot.removeprefix("section ") + (" ·" if spot.startswith("section ") else "")
        if not any(heading.casefold().startswith(start.casefold()) for heading in chapter.headings):
            yield f"{chapter.file} has no heading that begins with {start!r}: mend the place"


def _plain(markdown):
    """Without the marks of emphasis and code, capitals and line breaks."""
    return " ".join(re.sub(r"[*`]", "", markdown).split()).casefold()


# ---------------------------------------------------------------- the references


def _references(rows, chapters):
    twins = Counter(tuple(row.cells[:2]) for row in rows)
    numbers = Counter()
    for row in rows:
        authors, year, title, link, listed = row.cells
        match = ARXIV_LINK.fullmatch(link)
        number = match[1] if match else None
        numbers[number] += 1
        if link != "–" and (not match or match[1] != match[2]):
            yield row.place, f"{link!r} is no link to arXiv: write [1406.2661](https://arxiv.org/abs/1406.2661), or –"
        if number and numbers[number] > 1:
            yield row.place, f"arXiv {number} stands twice: keep one row"
        if number and not any(number in chapter.arxiv for chapter in chapters):
            yield row.place, f"no notebook cites arXiv {number}: take the number from a notebook"
        ways = [] if twins[authors, year] > 1 else [_name(authors, year)]
        ways += [] if number else [re.escape(title)]
        citing = [c.number for c in chapters if number in c.arxiv or any(re.search(way, c.text) for way in ways)]
        if listed.split(", ") != citing:
            yield row.place, f"cited in {', '.join(citing) or 'no chapter'}, not in {listed}: mend its chapters"
    for chapter in chapters:
        for number in sorted(chapter.arxiv - set(numbers)):
            yield "", f"no row has arXiv {number}, which {chapter.file} cites: add it to the references"
    yield from _order(rows, 3)


def _name(authors, year):
    """A pattern that finds "Ho 2020", "Ho et al. (2020" and "Ho 2019, 2020", but not "Ho & Salimans 2020"."""
    return rf"(?<!& )\b{re.escape(authors)}\b(?! &|, [A-Z])[^;|\n]{{0,24}}\b{year}\b"
