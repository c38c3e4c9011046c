"""Checking a study that came from elsewhere: its digests, and some of its trials by training them again."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from study.ledger.copies import Point
from study.ledger.records import DATA_TAG, TrialRecord
from study.transfer.archive import Archive
from study.transfer.comparing import is_result
from study.transfer.origins import Origin, Unreadable
from trainables import data
from trainables.machine import device_name
from trainables.metrics import TESTED
from trainables.node import source_digest
from trainables.storage.bundles import TrialResult
from trainables.trial import TrialConfig

FIRST_EPOCH = {"fp32": 1e-3, "bf16": 2e-2}
"""Relative difference of the first epoch's loss up to which numbers agree on other hardware. Later epochs
amplify rounding: two correct trainings may end some images apart."""
LOSS = "train/loss"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What training a trial again has shown, in words; `holds` is whether it confirms the trial."""

    holds: bool
    text: str


def damaged(origin: Origin) -> list[str]:
    """What cannot be read of a study, or is not what it was, in lines for people: every file is read."""
    if isinstance(origin, Archive):
        lines = origin.damaged()
        return lines or _missing(origin)
    return _missing(origin)


def _missing(origin: Origin) -> list[str]:
    lines = []
    for record in origin.records.values():
        try:
            with origin.files(record):
                pass
        except Unreadable as error:
            lines.append(str(error))
    return lines


def sample(origin: Origin, count: int, seed: int = 0) -> list[TrialRecord]:
    """Some finished trials, drawn at random, that can be trained here: without code of other people."""
    own = [record for record in origin.records.values() if record.status == "FINISHED" and _is_plain(record)]
    return random.Random(seed).sample(own, min(count, len(own)))  # noqa: S311


def _is_plain(record: TrialRecord) -> bool:
    try:
        return TrialConfig.from_params(record.params).key == record.key
    except (ValueError, TypeError):
        return False


def train_again(
    origin: Origin, record: TrialRecord, data_dir: Path, say: Callable[[str], None] = lambda line: None
) -> Check:
    """Train a trial again and compare what it gives with what its run has.

    On a machine of the same kind (processor or GPU, threads, PyTorch, code) every bit must agree; elsewhere
    the loss of the first epoch must, but for rounding.
    """
    from trainables.remeasure import device_here
    from trainables.train import train

    config = TrialConfig.from_params(record.params)
    digest = data.prepare(config.dataset, data_dir, folds=config.fold != "none", progress=True)
    if digest != record.tags.get(DATA_TAG, digest):
        return Check(holds=False, text=f"the data here are others (SHA-256 {digest[:12]})")
    threads = int(record.tags.get("threads", "1"))
    device = device_here()
    say(f"training {record.name or record.key}")
    result = train(config, data_dir, device=device, threads=threads)
    return judge(record, origin.points(record), result, _other_kind(record, device))


def _other_kind(record: TrialRecord, device: str) -> str:
    """How this machine differs from the one that trained a trial; empty: it does not."""
    here = {
        "device": device_name(device),
        "version.torch": version("torch"),
        "source.sha256": source_digest(),
    }
    differing = [name for name, value in here.items() if record.tags.get(name) != value]
    return ", ".join(differing)


def judge(record: TrialRecord, points: Sequence[Point], result: TrialResult, other_kind: str) -> Check:
    """Compare a result with what a run has.

    Args:
        record: the run's.
        points: of its metrics.
        result: of the same trial, trained here.
        other_kind: how this machine differs from that one; empty: bits must agree.
    """
    losses = {point.step: point.value for point in points if point.name == LOSS}
    pairs = [(losses.get(int(row["epoch"]), math.nan), float(row[LOSS])) for row in result.history]
    names = [name for name in record.metrics if is_result(name) and name in result.metrics]
    finals = [(record.metrics[name], float(result.metrics[name])) for name in names]
    if pairs and finals and all(_same(*pair) for pair in pairs + finals):
        text = f"equal to the last bit: {len(pairs)} epochs' losses, {len(finals)} final metrics"
        return Check(holds=True, text=text)
    there, here = pairs[0] if pairs else (math.nan, math.nan)
    tolerance = FIRST_EPOCH[record.params.get("precision", "fp32")]
    agrees = math.isclose(there, here, rel_tol=tolerance)
    text = (
        f"loss of the first epoch {there:.7g} there, {here:.7g} here;"
        f" {TESTED} {record.metrics.get(TESTED, math.nan):.4f} there, {result.metrics[TESTED]:.4f} here"
    )
    if not other_kind:
        return Check(holds=False, text=f"bits differ on a machine of the same kind: {text}")
    how = "agrees but for rounding" if agrees else "DIFFERS"
    return Check(holds=agrees, text=f"{how} (other {other_kind}): {text}")


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
