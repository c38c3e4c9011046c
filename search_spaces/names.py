"""Names of a selection, its cells and arms: they contain what varies between them, and no more."""

import hashlib
import re
from collections.abc import Collection, Sequence

from trainables.catalogue import FIRST_TERM
from trainables.trial import ARM_FIELDS, CELL_FIELDS, DEFAULTS, FieldValue, TrialConfig, format_value

_NAMED = ("method", "gamma", "term", "term_code", "hidden_dim", "embedding_dim")
"""Fields that an arm's name contains, and those of the architecture, which a report lists as fixed."""

LONGEST_NAME = 80
"""Characters of a readable folder name, without the space's."""
SEPARATOR = " · "
"""Between the parts of a cell's name."""


def folder_name(space: str, only: Sequence[str] = (), assign: Sequence[str] = ()) -> str:
    """The folder for results of a space, or of what `--only` and `--set` make of it.

    `quickstart`, `quickstart-only-arm-ce-set-epochs-2`, or with a digest where that would be long: a part of
    a study does not overwrite the results of the whole.
    """
    assigned = {text.partition("=")[0]: text for text in assign}  # the last one of a field counts
    given = {"only": sorted(set(only)), "set": sorted(assigned.values())}
    text = " ".join(" ".join([option, *values]) for option, values in given.items() if values)
    if not text:
        return space
    readable = re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{space}-{readable if len(readable) <= LONGEST_NAME else digest}"


def name_cells(trials: Sequence[TrialConfig]) -> dict[tuple[FieldValue, ...], str]:
    """Name of each cell: dataset, backbone, augmentations, and what else varies between cells."""
    groups = name_groups(trials)
    names = {}
    for cell, trial in {trial.cell: trial for trial in trials}.items():
        dataset, backbone, *others = groups[cell]
        names[cell] = SEPARATOR.join([dataset, backbone, subset(trial), *others])
    return names


def name_groups(trials: Sequence[TrialConfig]) -> dict[tuple[FieldValue, ...], tuple[str, ...]]:
    """The parts of each cell's name without the augmentations; cells of one group differ only in those.

    A field is included where cells with the same dataset and backbone differ in it; one that depends on these
    (a backbone's batch size) adds nothing.
    """
    always = ("dataset", "backbone", "augmentations")
    cells = {trial.cell: trial for trial in trials}
    kinds: dict[tuple[str, str], list[TrialConfig]] = {}
    for trial in cells.values():
        kinds.setdefault((trial.dataset, trial.backbone), []).append(trial)
    varying = {name for members in kinds.values() for name in varying_fields(members, besides=always)}
    groups = {}
    for cell, trial in cells.items():
        values = {name: format_value(getattr(trial, name)) for name in CELL_FIELDS if name in varying}
        values |= {name: "tuned" for name in trial.tuned if name in varying}
        others = (f"{name} {value}" for name, value in values.items())
        groups[cell] = (trial.dataset, trial.backbone, *others)
    return groups


def subset(trial: TrialConfig) -> str:
    """The augmentations as text. Without any, the two views differ by dropout at most."""
    return format_value(trial.augmentations) if trial.augmentations else "none (views alike)"


def varying_fields(trials: Sequence[TrialConfig], *, besides: Collection[str]) -> list[str]:
    """The fields in which the cells of these trials differ, where they matter, except those in `besides`."""
    # The names of backbone and augmentations tell what `code` is of.
    besides = {*besides, "code"}
    # A field has its default where it does not matter (`hflip_p` without flips): that is no difference.
    cells = {trial.cell: trial for trial in trials}.values()
    return [
        name
        for name in CELL_FIELDS
        if name not in besides
        and len({getattr(t, name) for t in cells if t.uses(name) and name not in t.tuned}) > 1
    ]


def arm_labels(trials: Sequence[TrialConfig]) -> dict[TrialConfig, str]:
    """The arm's name, with the fields that distinguish arms of one name within a cell.

    Of several such fields, those that have their default are left out, and the first where all have. Beside
    other terms the thesis's is named, too.
    """
    terms: dict[tuple[object, ...], set[str]] = {}
    for trial in trials:
        if trial.uses("term"):
            terms.setdefault(trial.cell, set()).add(trial.term)
    groups: dict[tuple[object, ...], set[tuple[object, ...]]] = {}
    for trial in trials:
        values = tuple(getattr(trial, name) for name in (*ARM_FIELDS, *trial.tuned))
        groups.setdefault((trial.cell, trial.arm), set()).add(values)
    labels = {}
    for trial in trials:
        variants = list(zip(*groups[trial.cell, trial.arm], strict=True))
        names = (*ARM_FIELDS, *trial.tuned)
        differing = [name for name, values in zip(names, variants, strict=True) if len(set(values)) > 1]
        told = [name for name in differing if getattr(trial, name) != DEFAULTS.get(name)] or differing[:1]
        alone = terms.get(trial.cell, {FIRST_TERM}) == {FIRST_TERM}
        if trial.method == "siamese" and trial.uses("term") and trial.term == FIRST_TERM and not alone:
            told = ["term", *told]
        extra = "".join(f" {name}={format_value(getattr(trial, name))}" for name in told)
        labels[trial] = trial.arm + extra
    return labels


def arm_settings(members: Sequence[TrialConfig]) -> list[str]:
    """Non-default settings shared by all arms of a cell that use them: `views asymmetric`."""
    settings = []
    for name in ARM_FIELDS:
        values = {getattr(trial, name) for trial in members if trial.uses(name)}
        if name not in _NAMED and len(values) == 1 and values != {DEFAULTS[name]}:
            settings.append(f"{name} {format_value(values.pop())}")
    return settings
