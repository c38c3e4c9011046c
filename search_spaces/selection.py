"""From a space and the command line's `--seeds`, `--only` and `--set` to the selected trials."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from search_spaces.assignments import FORM, assign_all, naming, parse_assignments, split_option
from search_spaces.design import Trials, check_count
from search_spaces.own import described, resolved
from search_spaces.search_design import Search
from search_spaces.searches import SEARCHES
from search_spaces.seeds import UNTIL, SeedPlan, parse_seeds, seed_plans
from search_spaces.spaces import SPACES
from trainables.metrics import OBJECTIVES
from trainables.trial import FIELDS, FieldValue, TrialConfig, format_value, nearest, parse_value

JOIN = "+"
"""Between the names of several spaces, in that of their union."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Distinct trials of a space, seed by seed: an interrupted study leaves complete replicates.

    Of several spaces `space` is their joined name, `a+b`, and `origins` has the first one that each trial is
    from. `steps` says how many trials each step of the selection left, in lines for people. `seeds` is what
    was asked for; if a range, `trials` are all that it may take. `margin` (points of test accuracy) is what
    counts as a difference worth having. `planned` are the trials with all seeds, where `--only seed=…` says
    which of them are wanted now; empty: they are `trials`.
    """

    space: str
    trials: tuple[TrialConfig, ...]
    steps: tuple[str, ...]
    seeds: SeedPlan | None = None
    margin: float | None = None
    origins: Mapping[TrialConfig, str] = field(default_factory=dict, hash=False)
    planned: tuple[TrialConfig, ...] = ()

    def space_of(self, trial: TrialConfig) -> str:
        """The first of the given spaces that has a trial."""
        return self.origins.get(trial, self.space)

    @property
    def seed_plans(self) -> dict[str, SeedPlan]:
        """What is planned for each cell, by its digest, if these trials are the first."""
        asked = self.seeds or SeedPlan(low=1, high=1)
        return seed_plans(self.planned or self.trials, replace(asked, margin=self.margin))


def select(
    space: str,
    *,
    only: Sequence[str] = (),
    assign: Sequence[str] = (),
    seeds: int | SeedPlan | None = None,
    margin: float | None = None,
) -> Selection:
    """Select trials: the space (with seeds 0 … `seeds` - 1), filtered by `only`, changed by `assign`.

    `space` is a name, or several joined by commas: the trials that any of them has. Each of `only` is
    `KEY=V[,V]`, KEY a field or `arm`: a trial stays if it has one of the values. Each of `assign` is
    `KEY=V[,V]` and replaces a field in the remaining trials by each of the values in turn; equal trials are
    merged. ValueError for an unknown space, key or value, and where no trial is left.
    """
    names = _space_names(space)
    origins, steps = _union(names)
    plan = SeedPlan(low=seeds, high=seeds) if isinstance(seeds, int) else seeds
    if plan is not None:
        once = _first((trial.replace(seed=0), name) for trial, name in origins.items())
        check_count("--seeds", plan, plan.high * len(once))
        origins = {t.replace(seed=seed): name for seed in range(plan.high) for t, name in once.items()}
        steps.append(f"--seeds {plan}: {'at most ' if plan.is_range else ''}{len(origins)}")
    trials = planned = Trials(origins)
    for condition in only:
        trials = _filter(trials, condition)
        steps.append(f"--only {condition}: {len(trials)}")
        if split_option("--only", condition, FORM)[0] != "seed":
            planned = _filter(planned, condition)
    planned = planned if len(planned) > len(trials) else Trials([])
    if assign:
        planned = Trials(assign_all(planned, assign)[0]) if planned else planned
        changed, lines = assign_all(trials, assign)
        origins, trials = {new: origins[old] for new, old in changed.items()}, Trials(changed)
        steps += lines
    if plan is not None and plan.is_range and len({trial.seed for trial in trials}) < plan.high:
        raise ValueError(f"--seeds: got {plan} with --only or --set of seeds; allowed: a range alone")
    if not trials:
        raise ValueError(f"space {space!r} has no trials")
    trials.sort(key=lambda trial: trial.seed)
    return Selection(
        space=JOIN.join(names),
        trials=tuple(trials),
        steps=tuple(steps),
        seeds=plan,
        margin=margin,
        origins=origins if len(names) > 1 else {},
        planned=tuple(planned),
    )


def _space_names(text: str) -> tuple[str, ...]:
    """The names in `a` or `a,b`."""
    names = tuple(text.split(","))
    searches = [name for name in names if name in SEARCHES]
    if len(names) > 1 and searches:
        raise ValueError(f"--space: got {text!r}; {searches[0]!r} is a search, which cannot be joined")
    if len(set(names)) < len(names):
        raise ValueError(f"--space: got {text!r}; each name at most once")
    return names


def _union(names: Sequence[str]) -> tuple[dict[TrialConfig, str], list[str]]:
    """The trials of several spaces, each with the first one that has it, and lines for people."""
    designs = {name: trials_of(name) for name in names}
    origins = _first((trial, name) for name, design in designs.items() for trial in design)
    steps = described()
    for name, design in designs.items():
        steps += [f"space {name}: {len(design)} trials", *design.notes]
    if len(names) > 1:
        steps.append(f"together: {len(origins)}")
    return origins, steps


def trials_of(name: str) -> Trials:
    """The trials of one space; ValueError for an unknown one."""
    if name not in SPACES:
        known = (*SPACES, *SEARCHES)
        raise ValueError(f"unknown space {name!r}{nearest(name, known)}; allowed: {', '.join(known)}")
    design = SPACES[name]()
    return Trials(design, getattr(design, "notes", ()))


def _first(pairs: Iterable[tuple[TrialConfig, str]]) -> dict[TrialConfig, str]:
    """The first partner of each trial, in order."""
    found: dict[TrialConfig, str] = {}
    for trial, partner in pairs:
        found.setdefault(trial, partner)
    return found


class _Once(argparse.Action):
    """An option that may be given once: argparse would take the last one without a word."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: object
    ) -> None:
        before = getattr(namespace, self.dest)
        if before is not None:
            joined = ",".join(dict.fromkeys([before, values]))
            parser.error(
                f"{self.option_strings[0]}: got twice; allowed: once, as {self.option_strings[0]} {joined}"
            )
        setattr(namespace, self.dest, values)


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select trials, shared by running and analysing."""
    group = parser.add_argument_group("which trials")
    group.add_argument(
        "--space",
        metavar="NAME[,NAME]",
        action=_Once,
        help=f"the space, or several: {', '.join((*SPACES, *SEARCHES))}, or one in a file of your own,"
        " my_study.py:name",
    )
    group.add_argument(
        "--only",
        metavar=FORM,
        action="append",
        default=[],
        help="keep trials that have one of the values; a field or 'arm'; may be repeated",
    )
    group.add_argument(
        "--set",
        metavar=FORM,
        action="append",
        default=[],
        dest="assign",
        help="then replace a field in every trial, by each of the values in turn; may be repeated",
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
    group = parser.add_argument_group("for searches only")
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
        known = ", ".join((*SPACES, *SEARCHES))
        raise ValueError(f"--space: required; allowed: {known}, or a space in a file, my_study.py:name")
    args.space = resolved(args.space)
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
    args.space = resolved(args.space) if args.space else None
    if args.space not in SEARCHES:
        return None
    search = SEARCHES[args.space]()
    methods = search.methods
    for condition in args.only:
        key, texts = split_option("--only", condition, FORM)
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
    search = search.replace(methods=methods, assigned=_assigned_once(args.assign), **changes)
    with naming("--set"):
        if any(not trial.val_fraction for trial in search.draw()):
            raise ValueError("val_fraction=0 leaves a search no image to look at; allowed: > 0")
    return search


def _filter(trials: Trials, condition: str) -> Trials:
    key, texts = split_option("--only", condition, FORM)
    if key != "arm" and key not in FIELDS:
        known = ("arm", *FIELDS)
        raise ValueError(f"--only: unknown key {key!r}{nearest(key, known)}; allowed: {', '.join(known)}")

    def value_of(trial: TrialConfig) -> str:
        return trial.arm if key == "arm" else format_value(getattr(trial, key))

    present = list(dict.fromkeys(value_of(trial) for trial in trials))
    wanted = texts.split(",")
    if key != "arm":
        with naming("--only"):
            wanted = [format_value(parse_value(key, text)) for text in wanted]
    _check_present(key, wanted, present)
    return Trials(trial for trial in trials if value_of(trial) in wanted)


def _check_present(key: str, wanted: Iterable[str], present: Sequence[str]) -> None:
    for value in wanted:
        if value not in present:
            hint, known = nearest(value, present), ", ".join(present) or "no trials"
            raise ValueError(f"--only {key}: no trial has {value!r}{hint}; there are: {known}")


def _assigned_once(assignments: Sequence[str]) -> dict[str, FieldValue]:
    """The one value of each field that a search is given."""
    values = parse_assignments(assignments)
    for key, several in values.items():
        if len(several) > 1:
            given = ",".join(map(format_value, several))
            raise ValueError(f"--set: got {key}={given} with a search; allowed: one value of each field")
    return {key: value for key, (value,) in values.items()}
