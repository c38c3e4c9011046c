"""The options of `study/run.py`."""

import argparse
import os
import re
from pathlib import Path

from search_spaces import add_selection_arguments
from search_spaces.searches import SAMPLERS, SCHEDULERS
from study.cli.notify import VARIABLE, webhook
from study.cluster.mps import MODES
from study.ledger.options import CommandLine, add_ledger_arguments, path
from study.ledger.storage_uri import add_storage_argument
from trainables.catalogue import KERNELS

SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def parser(prog: str = "study/run.py") -> argparse.ArgumentParser:
    """The command line."""
    options = CommandLine(
        prog=prog,
        usage="%(prog)s --space NAME [options]",
        description="Train what is missing of a space, then render its report.",
    )
    add_selection_arguments(options)
    options.add_argument("--list-spaces", action="store_true", help="list the spaces and exit")
    options.add_argument("--plan", action="store_true", help="say what would run, create nothing, exit")
    options.add_argument(
        "--probe", action="store_true", help="with --plan: measure for seconds what no trial has measured"
    )
    options.add_argument(
        "--budget",
        metavar="TIME",
        type=parse_duration,
        help="2h, 30m, 1h30m: start no trial that would not fit, then stop; the same command resumes",
    )
    options.add_argument(
        "--sampler", choices=SAMPLERS, help="who suggests the configurations of a search (default: tpe)"
    )
    options.add_argument(
        "--scheduler",
        choices=SCHEDULERS,
        help="what stops trials of a search early (default: asha; none with several objectives)",
    )
    options.add_argument("--retry-failed", action="store_true", help="run failed trials again")
    options.add_argument(
        "--rerun-stale", action="store_true", help="rerun trials whose data have changed since"
    )
    options.add_argument(
        "--no-report", action="store_true", help="train only; analysis/report.py renders the report later"
    )
    options.add_argument(
        "--report-every",
        metavar="TIME",
        type=parse_report_every,
        help="render the report while the study runs every 10m, 1h, …; 0 or never: only at its end (default:"
        " after 5m, then as often as takes at most 5%% of a core)",
    )
    options.add_argument(
        "--keep",
        choices=("weights",),
        action="append",
        default=[],
        help="keep the final weights of each trial with its run, to measure it again without training",
    )
    options.add_argument(
        "--notify",
        metavar="URL",
        type=webhook,
        action="append",
        default=[],
        help="post a message to this webhook (Slack, ntfy or any other) when the study ends or loses a node;"
        f" the address is a secret: better in {VARIABLE}",
    )
    options.add_argument(
        "--wait",
        action="store_true",
        help="where another driver works on the same output or experiment, wait until it has ended",
    )
    add_ledger_arguments(options)
    add_storage_argument(options)
    options.add_argument(
        "--data-dir", metavar="DIR", type=path, default=Path("data"), help="datasets (default: data)"
    )
    group = options.add_argument_group("where it runs")
    group.add_argument(
        "--address",
        metavar="ADDR",
        default=os.environ.get("RAY_ADDRESS"),
        help="Ray cluster (default: RAY_ADDRESS, else a new Ray on this machine)",
    )
    group.add_argument(
        "--cpus-per-trial",
        metavar="F",
        type=float,
        default=1.0,
        help="CPUs and threads per trial (default: 1)",
    )
    group.add_argument(
        "--gpus-per-trial",
        metavar="F",
        type=float,
        help="GPUs per trial; 0.25 packs four onto one (default: 1 if any)",
    )
    group.add_argument(
        "--mps",
        choices=MODES,
        default=MODES[0],
        help="auto: where trials share a GPU, start an MPS daemon on each node, so that they run at the same"
        " time (default: off)",
    )
    group.add_argument(
        "--cuda-graphs",
        action="store_true",
        help="on GPUs, record a training step once and replay it with one launch",
    )
    group.add_argument(
        "--kernels",
        choices=KERNELS,
        default=KERNELS[0],
        help="on GPUs: cuDNN's deterministic kernels, the fastest by its timing, or those and TF32 (default:"
        " deterministic)",
    )
    group.add_argument(
        "--max-failures",
        metavar="N",
        type=int,
        default=2,
        help="how often a trial whose process is lost is started again (default: 2)",
    )
    group.add_argument("--max-concurrent", metavar="N", type=int, help="trials at once (default: what fits)")
    return options


def parse_duration(text: str) -> float:
    """Seconds in `90s`, `30m`, `2h`, `1h30m` or `1d`; argparse.ArgumentTypeError for anything else."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
    if "".join(map("".join, parts)) != text or not seconds:
        raise argparse.ArgumentTypeError(f"got {text!r}; allowed: a time such as 90s, 30m, 2h, 1h30m or 1d")
    return seconds


def parse_report_every(text: str) -> float:
    """Seconds, as `parse_duration`, or 0 for `0` and `never`."""
    if text in ("0", "never"):
        return 0.0
    try:
        return parse_duration(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, 0 or never") from None
