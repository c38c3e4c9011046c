"""A look at a study that is still running, as the driver describes it to the process that renders it."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from study.ledger.ledger import Ledger
from study.ledger.records import DATA_TAG, TrialRecord
from trainables.trial import TrialConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What a report of a running study takes: plain values, which a pipe can carry.

    Attributes:
        args: the driver's parsed options: what is selected.
        typed: the driver's command line, which the report names.
        uri: of the ledger, with its password, if any.
        experiment: of the ledger.
        artifact_root: of the ledger.
        folder: where the report goes, absolute.
        digests: the current SHA-256 of datasets; trials on other data do not count.
        files: what `OwnFile.shipped` has of the own files that the driver has loaded.
        left: how long the study will take, for people; empty: not known.
        every: seconds between two renderings at least.
        ahead: whether only what takes longest is drawn, without a page, for the last report.
    """

    args: argparse.Namespace
    typed: tuple[str, ...]
    uri: str
    experiment: str
    artifact_root: Path
    folder: Path
    digests: Mapping[str, str | None]
    files: tuple[Mapping[str, str], ...]
    left: str
    every: float
    ahead: bool = False

    @property
    def ledger(self) -> Ledger:
        """The ledger, which a look only reads."""
        return Ledger(uri=self.uri, experiment=self.experiment, artifact_root=self.artifact_root)

    def counts(self, trial: TrialConfig, record: TrialRecord) -> bool:
        """Whether a trial was trained on the current data, as far as that is known."""
        digest = self.digests.get(trial.dataset)
        return digest is None or record.tags.get(DATA_TAG, digest) == digest
