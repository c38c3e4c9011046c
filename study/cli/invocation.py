"""One invocation of `study/run.py`: its arguments, parsed and checked before anything is created."""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from search_spaces import Search, Selection, folder_name, search_from, selection_from
from study.cli.notify import Notifier, webhooks
from study.cluster import connection
from study.cluster.mps import is_expected
from study.cluster.ray_internals import JOB_FILES
from study.ledger import tracking_uri
from study.ledger.ledger import Ledger
from study.ledger.options import ledger_from
from study.ledger.storage_uri import storage_uri
from study.ledger.tracking_uri import LedgerError
from study.ledger.usable import check_database_writable, check_reachable
from trainables import backbones, data, tried
from trainables.allocation import Allocation
from trainables.catalogue import KERNELS
from trainables.datasets.sources import DataError
from trainables.redact import first_line, masked, plain
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from trainables.storage.filesystem import Storage

REPORTS = Path("reports")


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """The arguments of one invocation, parsed and checked.

    The selection of a search has random trials that it could suggest, later its finalists'.
    """

    args: argparse.Namespace
    selection: Selection
    sizes: Mapping[TrialConfig, data.Sizes]
    search: Search | None = None
    sampler: str = "tpe"
    scheduler: str = "asha"
    resources: connection.Resources
    ledger: Ledger
    storage: "Storage"
    storage_uri: str
    output: Path
    data_dir: Path
    allocation: connection.Allocation
    """What each trial will be granted, as far as it is known before Ray is asked."""
    console: Console
    notifier: Notifier = field(default_factory=Notifier)

    @property
    def rerun(self) -> dict[str, bool]:
        """Which ended trials should run again, as arguments of functions in `study.planning.plan`."""
        return {"retry_failed": self.args.retry_failed, "rerun_stale": self.args.rerun_stale}

    @property
    def report_folder(self) -> Path:
        """Where the report is rendered; `analysis/report.py` with the same options finds the same folder."""
        return REPORTS / folder_name(self.selection.space, self.args.only, self.args.assign)

    @property
    def datasets(self) -> list[str]:
        """Names of all datasets of the selection."""
        return list(dict.fromkeys(trial.dataset for trial in self.selection.trials))

    @property
    def datasets_with_folds(self) -> set[str]:
        """Those of them whose predefined folds some trial needs."""
        return {trial.dataset for trial in self.selection.trials if trial.fold != "none"}

    def current_digests(self) -> dict[str, str | None]:
        """SHA-256 of each dataset as it is prepared; None where it is not."""
        return {name: data.fingerprint(name, self.data_dir) for name in self.datasets}

    def say(self, line: str) -> None:
        """Print a line for people."""
        self.console.print(plain(masked(line)), markup=False, soft_wrap=True)

    def check_storage(self) -> None:
        """Raise LedgerError where saved states and results cannot be read."""
        try:
            self.storage.names("results")
        except OSError as error:
            where = tracking_uri.redacted(self.storage_uri)
            raise LedgerError(f"--storage: {where} does not answer: {first_line(error)}") from None

    def check_before_anything_is_created(self) -> None:
        """Raise LedgerError or ClusterError for what can never work."""
        folders = [("--output", self.args.output), ("reports", REPORTS)]
        for option, folder in folders:
            if JOB_FILES in str(folder.absolute()):
                raise LedgerError(
                    f"{option}: got {str(folder.absolute())!r}, which Ray deletes after the job; allowed: a"
                    " folder elsewhere, and no --working-dir of `ray job submit`"
                )
        needed = {name: name in self.datasets_with_folds for name in self.datasets}
        if not all(data.is_prepared(name, self.data_dir, folds=folds) for name, folds in needed.items()):
            folders.append(("--data-dir", self.args.data_dir))  # otherwise reading is enough
        if "://" not in self.storage_uri:
            folders.append(("--storage", Path(self.storage_uri)))
        if self.ledger.store.sqlite_file is not None:
            folders.append(("--tracking-uri", self.ledger.store.sqlite_file.parent))
        for option, folder in folders:
            tracking_uri.check_writable(option, folder)
        file = self.ledger.store.sqlite_file
        if file is not None and file.exists():
            check_database_writable(file, self.say)
        self.ledger.exists()  # raises for a store that cannot be read
        connection.check_address(self.args.address, self.resources)
        if connection.is_local(self.args.address) and not self.allocation.gpus:
            asked = {
                "--cuda-graphs": self.args.cuda_graphs,
                f"--kernels {self.args.kernels}": self.args.kernels != KERNELS[0],
            }
            for option in (option for option, wanted in asked.items() if wanted):
                raise connection.ClusterError(f"{option}: no trial would run on a GPU here; leave it out")


def parse_invocation(args: argparse.Namespace, console: Console) -> Invocation:
    """Check parsed options and resolve what they name; raises ValueError or DataError."""
    from trainables.storage.filesystem import Storage

    hooks, args.notify = webhooks(args.notify), []  # arguments are handed on, addresses are not
    search = search_from(args)
    several = search is not None and len(search.objectives) > 1
    if several and args.scheduler == "asha":
        raise ValueError("--scheduler: got 'asha' with several objectives; allowed: none")
    if several and args.sampler == "cmaes":
        raise ValueError("--sampler: got 'cmaes' with several objectives; allowed: tpe, random")
    if search is None:
        selection = selection_from(args)
    else:
        selection = Selection(space=search.name, trials=tuple(search.draw()), steps=())
    resources = connection.Resources(
        cpus=args.cpus_per_trial, gpus=args.gpus_per_trial, max_concurrent=args.max_concurrent
    )
    if args.max_failures < 0:
        raise ValueError(f"--max-failures: got {args.max_failures}; allowed: an integer >= 0")
    if args.no_report and args.report_every:
        raise ValueError("--report-every: got with --no-report; allowed: one of them")
    if args.probe and not args.plan:
        raise ValueError("--probe: allowed with --plan only")
    if args.probe and not connection.is_local(args.address):
        raise ValueError(f"--probe: got --address {args.address}; allowed: without, it measures this machine")
    ledger = ledger_from(args)
    try:
        sizes = data.check(selection.trials, args.data_dir)
    except DataError:
        if search is not None or not _may_be_complete(selection, ledger):
            raise
        sizes = {}  # what is complete, as a study from an archive, takes no images; a plan with trials does
    if sizes:
        backbones.check(selection.trials, args.data_dir)
    tried.check(selection.trials)
    where = storage_uri(args)
    invocation = Invocation(
        args=args,
        selection=selection,
        sizes=sizes,
        search=search,
        sampler=args.sampler or "tpe",
        scheduler=args.scheduler or ("none" if several else "asha"),
        resources=resources,
        ledger=ledger,
        storage=Storage(where),
        storage_uri=where,
        output=args.output.absolute(),
        data_dir=args.data_dir.absolute(),
        allocation=_allocation(args, resources),
        console=console,
        notifier=Notifier(hooks, selection.space, args.experiment),
    )
    invocation.notifier.say = invocation.say
    return invocation


def _allocation(args: argparse.Namespace, resources: connection.Resources) -> Allocation:
    """What each trial is expected to be granted, and how it will use a GPU."""
    granted = connection.expected_allocation(resources, args.address)
    mps = is_expected(args.mps, granted.gpus, args.address)
    return replace(granted, cuda_graphs=args.cuda_graphs, kernels=args.kernels, mps=mps)


def _may_be_complete(selection: Selection, ledger: Ledger) -> bool:
    """Whether the ledger has a result of each trial, of a range of seeds for the first; not if unreadable."""
    try:
        check_reachable(ledger.uri)
        records = ledger.trials()
    except LedgerError:
        return False
    ended = {key for key, record in records.items() if record.status == "FINISHED"}
    least = selection.seeds.low if selection.seeds and selection.seeds.is_range else math.inf
    return all(trial.key in ended for trial in selection.trials if trial.seed < least)
