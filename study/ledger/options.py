"""What most command lines share: the look of `CommandLine`, and the options that name a ledger."""

import argparse
import os
from pathlib import Path

from study.ledger import tracking_uri
from study.ledger.ledger import DEFAULT_EXPERIMENT, Ledger
from study.ledger.tracking_uri import LedgerError
from trainables.command_line import CommandLine, path

__all__ = ["CommandLine", "add_ledger_arguments", "ledger_from", "path"]

LONGEST_NAME = 500
"""Characters of an experiment's name, as MLflow allows."""


def add_ledger_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--output`, `--experiment` and `--tracking-uri`."""
    group = parser.add_argument_group("where results are")
    group.add_argument(
        "--output",
        metavar="DIR",
        type=path,
        default=Path("runs"),
        help="database, artifacts and Ray's files (default: runs)",
    )
    group.add_argument(
        "--experiment",
        metavar="NAME",
        default=DEFAULT_EXPERIMENT,
        help=f"MLflow experiment (default: {DEFAULT_EXPERIMENT})",
    )
    group.add_argument(
        "--tracking-uri",
        metavar="URI",
        default=os.environ.get("MLFLOW_TRACKING_URI"),
        help="MLflow store (default: MLFLOW_TRACKING_URI, else sqlite:///<output>/mlflow.db)",
    )


def ledger_from(args: argparse.Namespace) -> Ledger:
    """The ledger that parsed arguments name.

    LedgerError for what names none, and where others could read its password.
    """
    if not 0 < len(args.experiment) <= LONGEST_NAME or not args.experiment.strip():
        got = f"{len(args.experiment)} characters" if args.experiment.strip() else repr(args.experiment[:9])
        raise LedgerError(f"--experiment: got {got}; allowed: a name of 1 to {LONGEST_NAME} characters")
    output = args.output.absolute()
    uri = args.tracking_uri or tracking_uri.sqlite_address(output / "mlflow.db")
    file = tracking_uri.sqlite_file(uri)
    if file is not None and "?" not in uri:
        uri = tracking_uri.sqlite_address(file)  # however it was quoted
    tracking_uri.check_secrets(uri)
    return Ledger(uri=uri, experiment=args.experiment, artifact_root=output / "mlartifacts")
