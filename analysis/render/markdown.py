"""The report as text, with its figures as links."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.plots.cache import Figure
from analysis.render.table import to_markdown
from trainables.redact import plain

MARKS = re.compile(r"([\\`<>\[\]!])")


def to_text(content: Mapping[str, Any], folder: Path) -> str:
    """Markdown of what the page's template gets, with paths of figures as seen from `folder`."""

    def figure(shown: Figure) -> str:
        return f"![{shown.alt}]({shown.png.relative_to(folder)})\n\n{shown.caption}\n"

    lines = [f"# Study {content['space']}\n", *_state(content)]
    lines.append("\n".join(f"- {sentence}" for sentence in content["findings"]) + "\n")
    lines += [to_markdown(table) for table in [*content["overview"], *content["published"]]]
    lines += [figure(shown) for shown in content["study_figures"]]
    for label, shown in content["group_figures"]:
        lines += [f"## {label}\n", *map(figure, shown)]
    lines += [f"{content['left_out']}\n"] if content["left_out"] else []
    for cell in content["cells"]:
        lines += [f"## {cell['label']}\n", *(f"- {sentence}" for sentence in cell["findings"]), ""]
        lines += [*map(to_markdown, cell["tables"]), *map(figure, cell["figures"])]
    lines += _open(content)
    lines += ["## Held fixed\n", *_facts({**content["fixed"], **content["goes_with"]})]
    lines += ["\n## Where this comes from\n", f"- experiment: {content['experiment']}"]
    lines += [*_facts(content["provenance"]), *(f"- {inert(note)}" for note in content["notes"])]
    return "\n".join(lines) + "\n"


def search_text(content: Mapping[str, Any], folder: Path) -> str:
    """Markdown of the report of a search, as `to_text`."""
    planned, there = content["planned"], content["searched_count"]
    states = ", ".join(f"{count} {state}" for state, count in content["states"].items() if count)
    lines = [f"# Search {content['space']}\n"]
    lines.append(f"{there} of {planned} configurations searched ({states}), by {content['objectives']}.\n")
    if content["finals_done"] < content["finals_planned"]:
        missing = content["finals_planned"] - content["finals_done"]
        lines.append(
            f"**Incomplete: {missing} of {content['finals_planned']} finalists' trials are missing.**\n"
        )
    lines.append("\n".join(f"- {sentence}" for sentence in content["findings"]) + "\n")
    lines += [to_markdown(table) for table in content["tables"]]
    for shown in content["figures"]:
        lines.append(f"![{shown.alt}]({shown.png.relative_to(folder)})\n\n{shown.caption}\n")
    lines += [f"{note}\n" for note in content["figure_notes"]]
    lines += [to_markdown(table) for table in content["searched"].values()]
    lines += ["## Held fixed\n", *_facts(content["fixed"])]
    lines += ["\n## Where this comes from\n", f"- experiment: {content['experiment']}"]
    lines += [*_facts(content["provenance"]), *(f"- {inert(note)}" for note in content["notes"])]
    return "\n".join(lines) + "\n"


def _state(content: Mapping[str, Any]) -> list[str]:
    """How much of the study is there."""
    planned, done = content["planned"], content["finished"]
    lines = []
    if done < planned:
        states = ", ".join(f"{count} {name}" for name, count in content["by_status"].items())
        lines.append(f"**Incomplete: {planned - done} of {planned} trials have no result** ({states}).\n")
    return [*lines, f"{done} of {planned} planned trials finished.\n"]


def _open(content: Mapping[str, Any]) -> list[str]:
    """The trials without a result, with the reason where one is known."""
    if not content["open_trials"]:
        return []
    lines = ["## Trials without a result\n"]
    for trial in content["open_trials"]:
        reason = f": {inert(trial['failure'])}" if trial["failure"] else ""
        lines.append(f"- {trial['status']} `{trial['name']}`{reason}")
    if content["more_open"]:
        lines.append(f"- … and {content['more_open']} more, all in trials.parquet")
    return [*lines, ""]


def _facts(facts: Mapping[str, str]) -> list[str]:
    return [f"- {name}: {inert(value)}" for name, value in facts.items()]


def inert(text: str) -> str:
    """Text from the ledger, in which nothing is Markdown or HTML: others may have written it."""
    return MARKS.sub(r"\\\1", " ".join(plain(text).split()))
