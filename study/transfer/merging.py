"""Taking trials into a ledger, so that each key counts once."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from search_spaces.seeds import SeedPlan
from study.ledger import seed_plans
from study.ledger.copies import settle_interrupted, write_trial
from study.ledger.kept_code import keep_code
from study.ledger.ledger import Ledger
from study.ledger.records import MEASURED_TAG
from study.transfer.comparing import Item, Merge, Verdict, compare
from study.transfer.origins import Origin, Study, Unreadable
from trainables.storage.bundles import bundle_keys
from trainables.storage.checkpoints import saved_epoch
from trainables.storage.filesystem import Storage

CODE_FILE = re.compile(r"(code|environment)-[0-9a-f]{12}\.(patch|zip|txt)")


@dataclass(slots=True)
class Outcome:
    """What a merge did: how many trials it wrote, and what it had to leave, in lines for people."""

    written: int = 0
    left: list[str] = field(default_factory=list)


def plan_merge(origin: Origin, ledger: Ledger, storage: Storage) -> Merge:
    """What a merge will do. Creates nothing."""
    here = ledger.trials()
    saved = {
        key: saved_epoch(storage, key)
        for key, record in here.items()
        if record.status != "FINISHED" and key in origin.records
    }
    return compare(origin, here, saved)


def carry_out(
    origin: Origin, ledger: Ledger, storage: Storage, *, say: Callable[[str], None] = lambda line: None
) -> tuple[Merge, Outcome]:
    """Take what is new into a ledger; only for the driver that holds the locks.

    Whoever is killed meanwhile has taken in some trials whole and the others not at all; the same call takes
    in the rest. Trials that cannot be read are left.

    Returns:
        What was to be done, and what was done.
    """
    ledger.open()
    ledger.kill_orphans()
    outcome = Outcome(written=settle_interrupted(ledger))
    merge = plan_merge(origin, ledger, storage)
    to_write = merge.of(Verdict.NEW, Verdict.FURTHER)
    for number, item in enumerate(to_write, 1):
        with _leaving(outcome, item.record.name or item.record.key):
            _take(origin, ledger, storage, item)
            outcome.written += 1
        if number % 100 == 0:
            say(f"{number} of {len(to_write)} trials")
    for item in merge.of(Verdict.STATE):
        with _leaving(outcome, item.record.name or item.record.key):
            _take_states(origin, storage, item)
    for item in merge.of(Verdict.METRICS):
        if item.here is not None:
            _add_metrics(ledger, item, item.here.run_id)
    for key in set(merge.waiting) - set(bundle_keys(storage)):
        with _leaving(outcome, key):
            storage.write(f"results/{key}.zip", origin.stored(f"results/{key}.zip"))
    for space, study in origin.studies.items():
        _declare(ledger, space, study)
    with _leaving(outcome, "code"):
        names = [name for name in origin.code if CODE_FILE.fullmatch(name)]
        if names:
            keep_code(ledger, {name: origin.code_file(name) for name in names})
    return merge, outcome


@contextlib.contextmanager
def _leaving(outcome: Outcome, what: str) -> Iterator[None]:
    """Note what cannot be read."""
    try:
        yield
    except Unreadable as error:
        outcome.left.append(f"{what}: {error}")


def _take(origin: Origin, ledger: Ledger, storage: Storage, item: Item) -> None:
    """Write a trial with its artifacts, and its saved states first: the run says that the trial is known."""
    points = origin.points(item.record)
    with origin.files(item.record) as files:
        _take_states(origin, storage, item)
        write_trial(ledger, item.record, points, files, origin=origin.title, replaces=item.here)


def _take_states(origin: Origin, storage: Storage, item: Item) -> None:
    """Copy saved states of a trial that is not finished, unless they are there."""
    key = item.record.key
    if item.record.status == "FINISHED":
        return
    present = set(storage.names(f"checkpoints/{key}"))
    for state in origin.states(key):
        if state not in present:
            name = f"checkpoints/{key}/{state}"
            storage.write(name, origin.stored(name))


def _add_metrics(ledger: Ledger, item: Item, run_id: str) -> None:
    """Add final metrics that were measured there after the trial had finished."""
    for name in item.missing:
        how = item.record.tags.get(MEASURED_TAG + name, "merged")
        ledger.add_measured(run_id, {name: item.record.metrics[name]}, how, item.record.changed)


def _declare(ledger: Ledger, space: str, study: Study) -> None:
    """Take over the declared numbers of seeds."""
    run = ledger.study_runs().get(space)
    if new := _new_tags(study.tags, run[1] if run else {}):
        ledger.tag_study(space, new)


def _new_tags(tags: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """The plans that are not known yet, under numbers that are free: of several the first by date counts."""
    prefix = f"{seed_plans.TAG}."
    present = {_canonical(text) for name, text in known.items() if name.startswith(prefix)}
    first = sum(name.startswith(prefix) for name in known)
    plans = [text for name, text in sorted(tags.items()) if name.startswith(prefix)]
    new = [text for text in plans if _is_plan(text) and _canonical(text) not in present]
    return {f"{prefix}{first + number:03d}": text for number, text in enumerate(new)}


def _is_plan(text: str) -> bool:
    """Whether a tag is what this project writes: whoever made an archive could have written anything."""
    try:
        plan = json.loads(text)
        cells = plan.pop("cells")
        SeedPlan(**plan)
    except (ValueError, TypeError, KeyError, AttributeError):
        return False
    return isinstance(cells, list) and all(isinstance(cell, str) for cell in cells)


def _canonical(text: str) -> str:
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except ValueError:
        return text
