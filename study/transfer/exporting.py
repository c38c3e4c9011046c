"""Writing an archive of a study."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from study.ledger.records import DATA_TAG, TrialRecord
from study.transfer import crate, members
from study.transfer.lean import lean_content, lean_record
from study.transfer.members import points_file, study_member, trial_member
from study.transfer.origins import LedgerOrigin, Unreadable
from study.transfer.writing import ArchiveWriter


def export(
    origin: LedgerOrigin,
    file: Path,
    publication: crate.Publication,
    *,
    chosen: Callable[[TrialRecord], bool] = lambda record: True,
    lean: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[str, list[str]]:
    """Write an archive, which replaces `file` when it is complete.

    Args:
        origin: what is exported.
        file: the members.
        publication: what people say of it.
        chosen: which trials.
        lean: whether large files (`study.transfer.lean`) and saved states are left out.
        say: gets a line for people now and then.

    Returns:
        The archive's SHA-256, and what could not be read, in lines for people.
    """
    records = {key: record for key, record in origin.records.items() if chosen(record)}
    writer = ArchiveWriter(file)
    try:
        unread: list[str] = []
        for number, record in enumerate(records.values(), 1):
            unread += _add_trial(writer, origin, record, lean=lean)
            if number % 100 == 0:
                say(f"{number} of {len(records)} trials")
        waiting = sorted(key for key in origin.waiting if key in records or key not in origin.records)
        if lean:
            unread += [f"results/{key}.zip: waits to be logged by a study" for key in waiting]
        else:
            unread += _add_stored(writer, origin, records, waiting)
        unread += _add_studies(writer, origin)
        for name in origin.code:
            writer.add(members.code_member(name), origin.code_file(name))
        about = {**_about(origin, records), "lean": lean}
        if lean:
            records = {key: lean_record(record) for key, record in records.items()}
        writer.add(
            members.TRIALS, "".join(f"{members.row(record)}\n" for record in records.values()).encode()
        )
        writer.add(members.ABOUT, json.dumps(about, indent=1, sort_keys=True).encode())
        writer.add(members.README, crate.page(publication, about, file.name))
        writer.add(members.CRATE, crate.crate(publication, writer.members, about, about["folders"]))
        return writer.close(), unread
    except BaseException:
        writer.abandon()
        raise


def _add_trial(writer: ArchiveWriter, origin: LedgerOrigin, record: TrialRecord, *, lean: bool) -> list[str]:
    """Add what a trial's run has; returns what cannot be read."""
    try:
        with origin.files(record) as files:
            for name, path in files.items():
                if not lean:
                    writer.add_file(trial_member(record.key, name), path)
                elif (content := lean_content(name, path)) is not None:
                    writer.add(trial_member(record.key, name), content)
    except Unreadable as error:
        return [str(error)]
    finally:
        writer.add(trial_member(record.key, members.POINTS), points_file(origin.points(record)))
    return []


def _add_stored(
    writer: ArchiveWriter, origin: LedgerOrigin, records: Mapping[str, TrialRecord], waiting: Sequence[str]
) -> list[str]:
    """Add saved states of unfinished trials, and results that wait; returns what cannot be read."""
    names = [f"results/{key}.zip" for key in waiting]
    for record in records.values():
        if record.status != "FINISHED":
            names += [f"checkpoints/{record.key}/{state}" for state in sorted(origin.states(record.key))]
    unread = []
    for name in names:
        try:
            writer.add(name, origin.stored(name))
        except Unreadable as error:  # a driver at work may just have deleted it
            unread.append(str(error))
    return unread


def _add_studies(writer: ArchiveWriter, origin: LedgerOrigin) -> list[str]:
    unread = []
    for space, study in origin.studies.items():
        for name in study.files:
            try:
                writer.add(study_member(space, name), origin.study_file(space, name))
            except Unreadable as error:
                unread.append(str(error))
    return unread


def _about(origin: LedgerOrigin, records: Mapping[str, TrialRecord]) -> dict[str, Any]:
    """The content of `study.json`."""

    def seen(tag: str) -> list[str]:
        return sorted({record.tags[tag] for record in records.values() if tag in record.tags})

    datasets: dict[str, set[str]] = {}
    for record in records.values():
        if DATA_TAG in record.tags:
            datasets.setdefault(record.params.get("dataset", "?"), set()).add(record.tags[DATA_TAG])
    return {
        "format": members.FORMAT,
        "experiment": origin.experiment,
        "trials": dict(Counter(record.status for record in records.values())),
        "changed": max((record.changed for record in records.values()), default=0),
        "studies": {space: dict(study.tags) for space, study in origin.studies.items()},
        "folders": {space: study_member(space, "") for space in origin.studies},
        "datasets": {name: ", ".join(sorted(digests)) for name, digests in sorted(datasets.items())},
        "versions": seen("version.study"),
        "commits": seen("git.commit"),
        "devices": seen("device"),
    }
