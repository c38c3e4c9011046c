"""From a space and the command line's `--seeds`, `--only` and `--set` to the selected trials."""

import argparse
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from search_spaces.design import Trials
from search_spaces.search_design import Search
from search_spaces.searches import SEARCHES
from search_spaces.seeds import UNTIL, SeedPlan, parse_seeds, seed_plans
from search_spaces.spaces import SPACES
from trainables.metrics import OBJECTIVES
from trainables.trial import FIELDS, FieldValue, TrialConfig, format_value, nearest, parse_value


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Distinct trials of a space, seed by seed: an interrupted study leaves complete replicates.

    `steps` says how many trials each step of the selection left, in lines for people. `seeds` is what was
    asked for; if a range, `trials` are all that it may take. `margin` (points of test accuracy) is what
    counts as a difference worth having.
    """

    space: str
    trials: tuple[TrialConfig, ...]
    steps: tuple[str, ...]
    seeds: SeedPlan | None = None
    margin: float | None = None

    @property
    def seed_plans(self) -> dict[str, SeedPlan]:
        """What is planned for each cell, by its digest, if these trials are the first."""
        return seed_plans(self.trials, replace(self.seeds or SeedPlan(low=1, high=1), margin=self.margin))


def select(
    space: str,
    *,
    only: Sequence[str] = (),
    assign: Sequence[str] = (),
    seeds: int | SeedPlan | None = None,
    margin: float | None = None,
) -> Selection:
    """Select trials: the space (with seeds 0 … `seeds` - 1), filtered by `only`, changed by `assign`.

    Each of `only` is `KEY=V[,V]`, KEY a field or `arm`: a trial stays if it has one of the values. Each of
    `assign` is `KEY=VALUE` and replaces a field in the remaining trials; equal ones are merged.
    ValueError for an unknown space, key or value, and where no trial is left.
    """
    if space not in SPACES:
        known = (*SPACES, *SEARCHES)
        raise ValueError(f"unknown space {space!r}{nearest(space, known)}; allowed: {', '.join(known)}")
    design = SPACES[space]()
    trials = Trials(design)
    steps = [f"space {space}: {len(trials)} trials", *getattr(design, "notes", ())]
    plan = SeedPlan(low=seeds, high=seeds) if isinstance(seeds, int) else seeds
    if plan is not None:
        trials = Trials(t.replace(seed=seed) for seed in range(plan.high) for t in trials)
        steps.append(f"--seeds {plan}: {'at most ' if plan.is_range else ''}{len(trials)}")
    for condition in only:
        trials = _filter(trials, condition)
        steps.append(f"--only {condition}: {len(trials)}")
    if assign:
        values = _assignments(assign)  # all at once: method and gamma, for example, are only valid together
        with _naming("--set"):
            trials = Trials(trial.replace(**values) for trial in trials)
        steps.append(f"{' '.join(f'--set {assignment}' for assignment in assign)}: {len(trials)}")
    if plan is not None and plan.is_range and len({trial.seed for trial in trials}) < plan.high:
        raise ValueError(f"--seeds: got {plan} with --only or --set of seeds; allowed: a range alone")
    if not trials:
        raise ValueError(f"space {space!r} has no trials")
    trials.sort(key=lambda trial: trial.seed)
    return Selection(space=space, trials=tuple(trials), steps=tuple(steps), seeds=plan, margin=margin)


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select trials, shared by running and analysing."""
    group = parser.add_argument_group("which trials")
    group.add_argument("--space", metavar="NAME", help=f"the search space: {', '.join((*SPACES, *SEARCHES))}")
    group.add_argument(
        "--only",
        metavar="KEY=V[,V]",
        action="append",
        default=[],
        help="keep trials that have one of the values; a field or 'arm'; may be repeated",
    )
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="assign",
        help="then replace a field in every trial; may be repeated",
    )
    group.add_argument(
        "--seeds",
        metavar="N",
        help="seeds 0 … N-1 instead of the space's own; with --until, a range such as 3..12; of a search,"
        " fresh seeds of each finalist",
    )
    group.add_argument(
        "--until",
        choices=UNTIL,
        help="with a range of --seeds: a cell gets seeds until each of its comparisons is decided",
    )
    group.add_argument(
        "--margin",
        metavar="POINTS",
        type=float,
        help="a difference smaller than this is not worth having: what lies within it is decided, too",
    )
    group = parser.add_argument_group("searches alone")
    group.add_argument("--trials", metavar="N", type=int, help="distinct configurations that a method tries")
    group.add_argument(
        "--finalists", metavar="K", type=int, help="best of each method, trained with fresh seeds"
    )
    group.add_argument(
        "--seeds-per-configuration",
        metavar="N",
        type=int,
        help="train each configuration with N seeds; the mean of their objectives counts (default: 1)",
    )
    group.add_argument(
        "--objective",
        metavar="NAME[,NAME]",
        help=f"what is optimised: {', '.join(OBJECTIVES)} (default: the search's own)",
    )


def selection_from(args: argparse.Namespace) -> Selection:
    """The selection that parsed arguments describe; raises ValueError like `select`."""
    if args.space is None:
        raise ValueError(f"--space: required; allowed: {', '.join((*SPACES, *SEARCHES))}")
    for option in ("trials", "finalists", "seeds_per_configuration", "objective", "sampler", "scheduler"):
        if getattr(args, option, None) is not None:
            written, known = option.replace("_", "-"), ", ".join(SEARCHES)
            raise ValueError(f"--{written}: got with {args.space!r}; allowed with a search: {known}")
    return select(args.space, only=args.only, assign=args.assign, seeds=_seeds_from(args), margin=args.margin)


def _seeds_from(args: argparse.Namespace) -> SeedPlan | None:
    """What `--seeds` asks for, with the rules for `--until` and `--margin`."""
    plan = None if args.seeds is None else parse_seeds(args.seeds)
    if plan is not None and plan.is_range and not args.until:
        raise ValueError(f"--seeds: got {args.seeds!r}; allowed with --until decided, otherwise a number")
    if args.until and not (plan and plan.is_range):
        raise ValueError(f"--until: got {args.until!r}; allowed with a range of --seeds, such as 3..12")
    if args.margin is not None:
        replace(plan or SeedPlan(low=1, high=1), margin=args.margin)  # which checks it
    return plan


def search_from(args: argparse.Namespace) -> Search | None:
    """The search that parsed arguments describe, None for a space; ValueError for bad arguments."""
    if args.space not in SEARCHES:
        return None
    search = SEARCHES[args.space]()
    methods = search.methods
    for condition in args.only:
        key, texts = _split("--only", condition, "KEY=V[,V]")
        if key != "method":
            raise ValueError(f"--only: got {condition!r}; allowed with a search: method={','.join(methods)}")
        methods = {method: row for method, row in methods.items() if method in texts.split(",")}
        _check_present(key, texts.split(","), list(search.methods))
    if not methods:
        raise ValueError(f"--only: no method is left; allowed: method={','.join(search.methods)}")
    given = {name: getattr(args, name) for name in ("trials", "finalists", "seeds_per_configuration")}
    for option in ("until", "margin"):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option}: got with the search {args.space!r}; allowed with a space")
    if args.seeds is not None:
        plan = parse_seeds(args.seeds)
        if plan.is_range:
            raise ValueError(f"--seeds: got {args.seeds!r} with the search {args.space!r}; allowed: a number")
        given["seeds"] = plan.low
    if args.objective is not None:
        given["objectives"] = tuple(args.objective.split(","))
    changes = {name: value for name, value in given.items() if value is not None}
    search = search.replace(methods=methods, assigned=_assignments(args.assign), **changes)
    with _naming("--set"):
        if any(not trial.val_fraction for trial in search.draw()):
            raise ValueError("val_fraction=0 leaves a search no image to look at; allowed: > 0")
    return search


def _filter(trials: Trials, condition: str) -> Trials:
    key, texts = _split("--only", condition, "KEY=V[,V]")
    if key != "arm" and key not in FIELDS:
        known = ("arm", *FIELDS)
        raise ValueError(f"--only: unknown key {key!r}{nearest(key, known)}; allowed: {', '.join(known)}")

    def value_of(trial: TrialConfig) -> str:
        return trial.arm if key == "arm" else format_value(getattr(trial, key))

    present = list(dict.fromkeys(value_of(trial) for trial in trials))
    wanted = texts.split(",")
    if key != "arm":
        with _naming("--only"):
            wanted = [format_value(parse_value(key, text)) for text in wanted]
    _check_present(key, wanted, present)
    return Trials(trial for trial in trials if value_of(trial) in wanted)


def _check_present(key: str, wanted: Iterable[str], present: Sequence[str]) -> None:
    for value in wanted:
        if value not in present:
            hint, known = nearest(value, present), ", ".join(present) or "no trials"
            raise ValueError(f"--only {key}: no trial has {value!r}{hint}; there are: {known}")


def _assignments(assignments: Iterable[str]) -> dict[str, FieldValue]:
    values = {}
    for assignment in assignments:
        key, text = _split("--set", assignment, "KEY=VALUE")
        if key == "arm":
            raise ValueError("--set: 'arm' is derived; set method or gamma instead")
        with _naming("--set"):
            values[key] = parse_value(key, text)
    return values


@contextlib.contextmanager
def _naming(option: str) -> Iterator[None]:
    """Begin the message of a ValueError with the option."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def _split(option: str, text: str, form: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise ValueError(f"{option}: got {text!r}; allowed: {form}")
    return key, value
