"""What a reader should know beside the results: what is missing, fixed, or not the same for all trials."""

import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from analysis.render.section import Section
from analysis.render.text import join_and, number_of
from analysis.trials import FRAME, TAGS, finished
from search_spaces import Selection
from search_spaces.names import arm_labels, name_cells
from study.ledger import tracking_uri
from study.ledger.ledger import Ledger
from study.ledger.records import LEFT_OUT_TAG
from trainables.arms import Arm
from trainables.catalogue import KERNELS
from trainables.trial import ARM_FIELDS, CELL_FIELDS, SETTINGS, FieldValue, TrialConfig, format_value

LISTED_TRIALS = 200
"""Trials without a result that a report lists one by one."""
_STATUS = {"FAILED": "failed", "KILLED": "interrupted", "RUNNING": "running", "MISSING": "not started"}


def status_warning(trials: pd.DataFrame) -> list[str]:
    """How many trials have no result, and why; empty if all have one."""
    missing = len(trials) - len(finished(trials))
    if not missing:
        return []
    counts = trials["status"].value_counts()
    states = ", ".join(f"{counts[status]} {name}" for status, name in _STATUS.items() if status in counts)
    return [
        f"This study is incomplete: {missing} of {len(trials)} trials have no result ({states})."
        " The results below do not cover them."
    ]


def unread_warning(ledger: Ledger, trials: pd.DataFrame) -> list[str]:
    """Which files that a report takes could not be read; empty if all were, but for those of lean archives.

    Of at least so many trials: some figures need a file of every arm, and give up at the first that lacks.
    """
    left_out = dict(zip(trials["run_id"], trials[LEFT_OUT_TAG].fillna(""), strict=True))
    unread = {
        (run_id, name): reason
        for (run_id, name), reason in ledger.artifacts.unread.items()
        if name not in left_out.get(run_id, "").split()
    }
    if not unread:
        return []
    count, names = len({run_id for run_id, _ in unread}), sorted({name for _, name in unread})
    return [
        f"{join_and(names)} of at least {number_of(count, 'trial')} could not be read: figures and tables"
        f" that take them do without, or are left out. For example {next(iter(unread.values()))}"
    ]


def open_section(trials: pd.DataFrame) -> Section:
    """The trials without a result, with the reason where one is known."""
    rows = trials.loc[trials["status"] != "FINISHED", ["status", "name", "failure"]]
    facts = [
        (status, name if pd.isna(failure) else f"{name}: {failure}")
        for status, name, failure in rows.head(LISTED_TRIALS).itertuples(index=False)
    ]
    more = len(rows) - len(facts)
    notes = (f"… and {more} more, all in {FRAME}.",) if more else ()
    return Section(id="open", title="Trials without a result", facts=tuple(facts), notes=notes)


def fixed_section(trials: Sequence[TrialConfig], who: str) -> Section:
    """The fields that all trials have in common; those that vary with dataset, backbone or term alone."""
    fixed, tuned, confounded = [], [], []
    for name in (*CELL_FIELDS, *(name for name in ARM_FIELDS if name not in ("method", "gamma"))):
        using = [trial for trial in trials if trial.uses(name)]
        users = SETTINGS[name].used_by.title
        title = f"{name} ({users})" if users else name
        if any(name in trial.tuned for trial in using):
            tuned.append((title, _by_arm(name, using)))
        elif len({getattr(trial, name) for trial in using}) == 1:
            fixed.append((title, format_value(getattr(using[0], name))))
        elif name not in ("dataset", "backbone", "term") and (values := _confounded(name, using)):
            confounded.append((title, values))
    parts = []
    if tuned:
        text = "These were chosen for each arm beforehand, by the author of the space:"
        parts.append(Section(paragraphs=(text,), facts=tuple(tuned)))
    text = (
        "These varied with the dataset, the backbone or the term: their effects cannot be told apart from"
        " theirs."
    )
    return Section(
        id="fixed",
        title="Held fixed",
        paragraphs=(f"{who} had these values. What is said above holds for them, and for no others.",),
        facts=tuple(fixed),
        parts=(*parts, Section(paragraphs=(text,), facts=tuple(confounded))) if confounded else tuple(parts),
    )


def provenance_section(selection: Selection, trials: pd.DataFrame, experiment: str) -> Section:
    """Where the numbers come from, with caveats on how they came about."""
    done = finished(trials)
    apart = ("attempts", "git.dirty", LEFT_OUT_TAG)  # said among the caveats
    known = {tag: sorted(done[tag].dropna().unique()) for tag in TAGS if tag not in apart}
    ended = pd.to_datetime(done["changed"], unit="ms", utc=True)
    days = sorted({f"{moment:%Y-%m-%d}" for moment in (ended.min(), ended.max()) if not pd.isna(moment)})
    typed = shlex.join(["python", *(tracking_uri.redacted(_in_project(word)) for word in sys.orig_argv[1:])])
    facts = {
        "experiment": experiment,
        "selection": " → ".join(selection.steps),
        "trials ended": " to ".join(days),
        **{tag: ", ".join(values) for tag, values in known.items() if values},
        "report": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by {typed}",
    }
    return Section(
        id="provenance",
        title="Where this comes from",
        facts=tuple(facts.items()),
        items=tuple(_caveats(done)),
    )


def _in_project(word: str) -> str:
    """A path within the project without the folder that the project is in, which is nobody's business."""
    root = Path(__file__).resolve().parents[2]
    return str(Path(word).relative_to(root)) if Path(word).is_relative_to(root) else word


def _by_arm(name: str, trials: Sequence[TrialConfig]) -> str:
    """`0.03: CE, γ = 0; 0.01: γ = 10⁻³`: which arms have which value of a tuned field."""
    labels, cells = arm_labels(trials), name_cells(trials)
    titles = {trial: Arm.parse(labels[trial]).title for trial in trials}
    values: dict[str, set[FieldValue]] = {}
    for trial, title in titles.items():
        values.setdefault(title, set()).add(getattr(trial, name))
    arms: dict[FieldValue, dict[str, None]] = {}
    for trial, title in titles.items():
        where = f" in {cells[trial.cell]}" if len(values[title]) > 1 else ""
        arms.setdefault(getattr(trial, name), {})[title + where] = None
    return "; ".join(f"{format_value(value)}: {', '.join(those)}" for value, those in arms.items())


def _confounded(name: str, trials: Sequence[TrialConfig]) -> str:
    """`512 with vgg16, 256 with resnet18` if a field varies with dataset, backbone or term alone."""
    for keys in (("dataset",), ("backbone",), ("dataset", "backbone"), ("term",)):
        if keys == ("term",) and not all(trial.uses("term") for trial in trials):
            continue
        values: dict[tuple[object, ...], set[FieldValue]] = {}
        for trial in trials:
            place = tuple(getattr(trial, key) for key in keys)
            values.setdefault(place, set()).add(getattr(trial, name))
        if len(set().union(*values.values())) > 1 and all(len(own) == 1 for own in values.values()):
            return ", ".join(
                f"{format_value(*own)} with {' · '.join(map(str, place))}" for place, own in values.items()
            )
    return ""


_SAME_CODE = "but what trains is the same in all (`source.sha256`)"


def _caveats(done: pd.DataFrame) -> list[str]:
    """Circumstances that were not the same for all finished trials, or not reproducible."""
    notes = []
    done = done.assign(**{"gpus.kernels": done["gpus.kernels"].fillna(KERNELS[0])})
    mixing = (("device", "kinds of devices"), ("threads", "numbers of threads"), ("gpus.kernels", "kernels"))
    for tag, what in mixing:
        counts = done.groupby("cell_label", sort=False)[tag].nunique()
        mixed = [str(label) for label in counts.index[counts > 1]]
        if mixed:
            kinds = ", ".join(sorted(done[tag].dropna().unique()))
            notes.append(
                f"Arms of one cell ran on different {what} ({kinds}): {_some(mixed)}. Their results are"
                " comparable, but not bit for bit."
            )
    for tag, what in (("git.commit", "commits"), ("version.torch", "versions of PyTorch")):
        values = sorted(done[tag].dropna().unique())
        if len(values) > 1:
            listed = ", ".join(value[:12] for value in values)
            codes = set(done["source.sha256"].fillna(""))
            but = f", {_SAME_CODE}" if tag == "git.commit" and len(codes) == 1 and all(codes) else ""
            notes.append(f"Trials ran with {len(values)} {what}: {listed}{but}.")
    dirty = done[done["git.dirty"] == "true"]
    if len(dirty):
        note = f"{len(dirty)} of {len(done)} trials ran from a working tree with uncommitted changes"
        kept = dirty["source.kept"].dropna()
        where = f"; they are kept by the run “code”: {', '.join(sorted(kept.unique()))}" if len(kept) else ""
        notes.append(f"{note}{where}.")
    lean = done[LEFT_OUT_TAG].dropna()
    if len(lean):
        notes.append(
            f"{len(lean)} of {len(done)} trials came in a lean archive, without features and images: PCA,"
            " t-SNE and augmented views are left out."
        )
    repeated = int((pd.to_numeric(done["attempts"], errors="coerce") > 1).sum())
    if repeated:
        notes.append(
            f"{repeated} of {len(done)} trials were started more than once: interrupted and resumed, or"
            " retried."
        )
    return notes


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more cells" if len(names) > most else "")
