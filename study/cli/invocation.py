"""One call of the command line, understood and checked before anything is created."""

import argparse
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from search_spaces import SEARCHES, Search, Selection, search_from, selection_from
from study.cli import options
from study.cluster import connection
from study.ledger import tracking_uri
from study.ledger.ledger import Ledger, ledger_from
from study.ledger.tracking_uri import LedgerError
from trainables import backbones, data
from trainables.redact import first_line, masked, plain
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from trainables.storage.filesystem import Storage

JOB_FILES = "/runtime_resources/working_dir_files/"
"""Part of the path of what `ray job submit --working-dir` has sent to a cluster."""
REPORTS = Path("reports")


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of the command line, understood and checked."""

    args: argparse.Namespace
    selection: Selection
    """The trials; of a search, some that it could suggest, or its finalists'."""
    search: Search | None = None
    sizes: dict[TrialConfig, data.Sizes]
    resources: connection.Resources
    ledger: Ledger
    storage: "Storage"
    console: Console
    lease_lost: threading.Event = field(default_factory=threading.Event)
    exhausted: set[str] = field(default_factory=set)
    """Methods of the search that have fewer configurations than asked for."""

    @property
    def output(self) -> Path:
        """Absolute folder of `--output`."""
        return Path(self.args.output).absolute()

    @property
    def storage_uri(self) -> str:
        """Of `storage`."""
        return options.storage_uri(self.args)

    @property
    def data_dir(self) -> Path:
        """Absolute folder of datasets."""
        return Path(self.args.data_dir).absolute()

    @property
    def grant(self) -> connection.Grant:
        """What each trial will be granted, as far as it is known before Ray is asked."""
        return connection.expected(self.resources, self.args.address)

    @property
    def again_which(self) -> dict[str, bool]:
        """Which trials that have ended are to be run again."""
        return {"retry_failed": self.args.retry_failed, "rerun_stale": self.args.rerun_stale}

    @property
    def datasets(self) -> list[str]:
        """Names of all datasets of the selection."""
        return list(dict.fromkeys(trial.dataset for trial in self.selection.trials))

    def say(self, line: str) -> None:
        """Print a line for people."""
        self.console.print(plain(masked(line)), markup=False, soft_wrap=True)


def understood(args: argparse.Namespace, console: Console) -> Call:
    """What the options mean; raises ValueError or DataError for what cannot be meant."""
    from trainables.storage.filesystem import Storage

    search = search_from(args)
    check_search_options(args, search)
    if search is None:
        selection = selection_from(args)
    else:
        selection = Selection(space=search.name, trials=tuple(search.draw()), steps=())
    resources = connection.Resources(
        cpus=args.cpus_per_trial, gpus=args.gpus_per_trial, max_concurrent=args.max_concurrent
    )
    if args.max_failures < 0:
        raise ValueError(f"--max-failures: got {args.max_failures}; allowed: an integer >= 0")
    if args.probe and not args.plan:
        raise ValueError("--probe: allowed with --plan only")
    if args.probe and not connection.is_own(args.address):
        raise ValueError(f"--probe: got --address {args.address}; allowed: without, it measures this machine")
    sizes = data.check(selection.trials, args.data_dir)
    backbones.check(selection.trials, args.data_dir)
    return Call(
        args=args,
        selection=selection,
        search=search,
        sizes=sizes,
        resources=resources,
        ledger=ledger_from(args),
        storage=Storage(options.storage_uri(args)),
        console=console,
    )


def check_search_options(args: argparse.Namespace, search: Search | None) -> None:
    """Set what `--sampler` and `--scheduler` are by default; ValueError for what cannot be."""
    if search is None:
        for option in ("sampler", "scheduler"):
            if getattr(args, option) is not None:
                known = ", ".join(SEARCHES)
                raise ValueError(f"--{option}: got with {args.space!r}; allowed with a search: {known}")
        return
    several = len(search.objectives) > 1
    if several and args.scheduler == "asha":
        raise ValueError("--scheduler: got 'asha' with several objectives; allowed: none")
    if several and args.sampler == "cmaes":
        raise ValueError("--sampler: got 'cmaes' with several objectives; allowed: tpe, random")
    args.sampler = args.sampler or "tpe"
    args.scheduler = args.scheduler or ("none" if several else "asha")


def check_before_anything_is_created(call: Call) -> None:
    """Raise LedgerError or ClusterError for what could never work."""
    folders = [("--output", call.args.output), ("reports", REPORTS)]
    for option, folder in folders:
        if JOB_FILES in str(folder.absolute()):
            raise LedgerError(
                f"{option}: got {str(folder.absolute())!r}, which Ray deletes after the job; allowed: a"
                " folder elsewhere, and no --working-dir of `ray job submit`"
            )
    if not all(data.fingerprint(name, call.data_dir) for name in call.datasets):
        folders.append(("--data-dir", call.args.data_dir))  # else it may be shared, only for reading
    if "://" not in call.storage_uri:
        folders.append(("--storage", Path(call.storage_uri)))
    for option, folder in folders:
        tracking_uri.check_writable(option, folder)
    database = tracking_uri.sqlite_file(call.ledger.uri)
    if database is not None:
        tracking_uri.check_writable("--tracking-uri", database.parent)
    call.ledger.exists()  # a store that cannot be read is told here
    connection.check(call.args.address, call.resources)


def check_storage(call: Call) -> None:
    """Raise LedgerError where saved states and results cannot be read."""
    try:
        call.storage.names("results")
    except OSError as error:
        line = first_line(error)
        raise LedgerError(
            f"--storage: {tracking_uri.redacted(call.storage_uri)} does not answer: {line}"
        ) from None
