"""A report as Markdown, with its figures as links."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from analysis.render.section import Report, Section
from analysis.render.table import to_markdown
from trainables.redact import plain

MARKS = re.compile(r"([\\`<>\[\]!*&|~]|(?<![^\W_])_|_(?![^\W_]))")


def to_text(report: Report, folder: Path) -> str:
    """The Markdown of a report, with paths of figures relative to `folder`."""
    blocks = [f"# {report.question}", *([f"*{report.live.banner}*"] if report.live else [])]
    blocks += [f"**{answer}**" for answer in report.answers]
    blocks += [f"**{warning}**" for warning in report.warnings]
    about = f": {escape_markdown(report.about)}" if report.about else ""
    blocks += [f"{report.kind} {report.name}{about}", report.lead]
    blocks += [*_blocks(report.front, folder, level=2), report.note, _list(report.findings)]
    for section in report.sections:
        blocks += _blocks(section, folder, level=2)
    return plain("\n\n".join(block for block in blocks if block) + "\n")


def _blocks(section: Section, folder: Path, level: int) -> Iterator[str]:
    if section.title:
        yield f"{'#' * level} {section.title}"
    yield from section.paragraphs
    yield _list(section.findings)
    for table in section.tables:
        yield to_markdown(table, level + 1).rstrip("\n")
    yield _list([f"{name}: {escape_markdown(value)}" for name, value in section.facts])
    for figure in section.figures:
        yield f"![{figure.alt}]({figure.png.relative_to(folder)})\n\n{figure.caption}"
    for part in section.parts:
        yield from _blocks(part, folder, level + 1)
    yield _list(map(escape_markdown, section.items))
    yield from section.notes


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def escape_markdown(text: str) -> str:
    """Text from the ledger, which anybody may have written, with nothing in it that is Markdown or HTML."""
    return MARKS.sub(r"\\\1", " ".join(plain(text).split()))
