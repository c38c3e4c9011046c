"""Where saved states lie, and results on their way to the ledger: `--storage`."""

import argparse
import re
from pathlib import Path
from urllib.parse import quote

from study.ledger.ledger import DEFAULT_EXPERIMENT
from study.ledger.options import path
from study.ledger.tracking_uri import has_secret
from trainables.redact import masked

RESERVED = (".", "checkpoints", "nodes", "results")
"""Folders of the default experiment, beside the folders of other experiments."""
LONGEST_FOLDER = 255
"""Characters of a folder's name, as file systems allow."""


def add_storage_argument(options: argparse.ArgumentParser) -> None:
    """`--storage`, which `storage_uri` reads."""
    options.add_argument(
        "--storage",
        metavar="URI",
        type=lambda text: text if "://" in text else str(path(text)),
        help="saved states and results on their way to the ledger: a folder that all nodes see, or a URI"
        " such as s3://bucket/folder (default: --output)",
    )


def storage_uri(args: argparse.Namespace) -> str:
    """Absolute folder or URI of saved states and bundles.

    Each experiment has its own: two can contain the same trial, but its result belongs to one. ValueError for
    a name of an experiment that makes no folder of its own, an address without a bucket, and a password: the
    address is copied into Ray's files on all nodes.
    """
    given = args.storage or str(args.output)
    if "://" in given and has_secret(given):
        raise ValueError(
            f"--storage: got {masked(given)!r}, an address with a password or key; allowed: without, and"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws/credentials or the role of the machine"
        )
    if re.fullmatch(r"[^/?]*://+(\?.*)?", given):
        raise ValueError(f"--storage: got {given!r}; allowed: a folder, or an address as s3://bucket/folder")
    return folder_of(given, args.experiment)


def folder_of(given: str, experiment: str) -> str:
    """The storage of an experiment within a folder or URI that several share; errors as of `storage_uri`."""
    if experiment in RESERVED or ".." in experiment.split("/"):
        names = ", ".join(RESERVED)
        raise ValueError(f"--experiment: got {experiment!r}; allowed: a name without '..', not {names}")
    folder = quote(experiment, safe="" if "://" in given else " ")
    if "://" not in given and len(folder) > LONGEST_FOLDER:
        raise ValueError(
            f"--experiment: got a name of {len(folder)} characters as that of a folder on --storage (others"
            f" than letters and digits count threefold); allowed: {LONGEST_FOLDER}"
        )
    root, mark, settings = given.partition("?") if "://" in given else (str(Path(given).absolute()), "", "")
    root = root.rstrip("/")
    if experiment != DEFAULT_EXPERIMENT:
        root = f"{root}/{folder}"
    return f"{root}{mark}{settings}"
