"""What all command lines share: how errors look, and the options that name a ledger."""

import argparse
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from study.ledger import tracking_uri
from study.ledger.ledger import DEFAULT_EXPERIMENT, Ledger
from study.ledger.tracking_uri import LedgerError
from trainables.trial import FIELDS

LONGEST_NAME = 500
"""Characters of an experiment's name, as MLflow allows."""


class CommandLine(argparse.ArgumentParser):
    """A parser with `--version`, whose errors are one line after one that says where help is.

    argparse puts its usage before an error: nine lines for `study/run.py`, which hide what was wrong.
    """

    def __init__(self, **settings: Any) -> None:
        """Settings are those of `argparse.ArgumentParser`."""
        super().__init__(allow_abbrev=False, **settings)
        self.add_argument("--version", action="version", version=f"study {version('siamese-barlow-twins')}")

    def error(self, message: str) -> NoReturn:
        """End the process with code 2."""
        usage = self.format_usage().strip()
        if message.startswith("unrecognized arguments: --") and (hint := _field_hint(message)):
            message += hint
        self.exit(2, f"{usage}  (see {self.prog} --help)\n{self.prog}: error: {message}\n")


def _field_hint(message: str) -> str:
    """How to set a field of a trial that was given as an option; empty where it is none."""
    name, *value = message.removeprefix("unrecognized arguments: --").replace("=", " ").split()[:2]
    field = name.replace("-", "_")
    return (
        f"; a field of trials is set by --set {field}={value[0] if value else 'VALUE'}"
        if field in FIELDS
        else ""
    )


def add_ledger_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--output`, `--experiment` and `--tracking-uri`."""
    group = parser.add_argument_group("where results are")
    group.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
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
