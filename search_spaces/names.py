"""What to call the cells and arms of a selection: what varies between them, and no more."""

from collections.abc import Collection, Sequence

from trainables.trial import ARM_FIELDS, CELL_FIELDS, DEFAULTS, FieldValue, TrialConfig, format_value

_NAMED = ("method", "gamma", "term", "hidden_dim", "embedding_dim")
"""Fields of arms that their names tell, and those of the architecture: a report lists these as held fixed."""


def name_cells(trials: Sequence[TrialConfig]) -> dict[tuple[FieldValue, ...], str]:
    """What to call each cell: dataset, backbone, augmentations, and what else varies between cells."""
    groups = name_groups(trials)
    names = {}
    for cell, trial in {trial.cell: trial for trial in trials}.items():
        dataset, backbone, *others = groups[cell]
        names[cell] = " · ".join([dataset, backbone, subset(trial), *others])
    return names


def name_groups(trials: Sequence[TrialConfig]) -> dict[tuple[FieldValue, ...], tuple[str, ...]]:
    """The parts of each cell's name but for the augmentations: cells of one group differ in these alone.

    A field is named where cells of one dataset and backbone differ in it: what goes with these (a backbone's
    batch size) tells nothing more.
    """
    always = ("dataset", "backbone", "augmentations")
    kinds: dict[tuple[str, str], list[TrialConfig]] = {}
    for trial in {trial.cell: trial for trial in trials}.values():
        kinds.setdefault((trial.dataset, trial.backbone), []).append(trial)
    found = {name for members in kinds.values() for name in varying_fields(members, besides=always)}
    varying = [name for name in CELL_FIELDS if name in found]
    return {
        trial.cell: (
            trial.dataset,
            trial.backbone,
            *(f"{name} {format_value(getattr(trial, name))}" for name in varying),
        )
        for trial in {trial.cell: trial for trial in trials}.values()
    }


def subset(trial: TrialConfig) -> str:
    """Without augmentation the two views differ by dropout at most, and the term decorrelates only."""
    return format_value(trial.augmentations) if trial.augmentations else "none (views alike)"


def varying_fields(trials: Sequence[TrialConfig], *, besides: Collection[str]) -> list[str]:
    """The fields in which the cells of these trials differ, without those in `besides`."""
    cells = {trial.cell for trial in trials}
    return [
        name
        for i, name in enumerate(CELL_FIELDS)
        if name not in besides and len({cell[i] for cell in cells}) > 1
    ]


def arm_labels(trials: Sequence[TrialConfig]) -> dict[TrialConfig, str]:
    """The arm's name, with the fields that tell apart arms of one name within a cell."""
    groups: dict[tuple[object, ...], set[tuple[object, ...]]] = {}
    for trial in trials:
        groups.setdefault((trial.cell, trial.arm), set()).add(_arm_values(trial))
    labels = {}
    for trial in trials:
        variants = list(zip(*groups[trial.cell, trial.arm], strict=True))
        differing = [name for name, values in zip(ARM_FIELDS, variants, strict=True) if len(set(values)) > 1]
        extra = "".join(f" {name}={format_value(getattr(trial, name))}" for name in differing)
        labels[trial] = trial.arm + extra
    return labels


def arm_settings(members: Sequence[TrialConfig]) -> list[str]:
    """What all arms of a cell that use it have in common and is not the default: `views asymmetric`."""
    settings = []
    for name in ARM_FIELDS:
        values = {getattr(trial, name) for trial in members if trial.uses(name)}
        if name not in _NAMED and len(values) == 1 and values != {DEFAULTS[name]}:
            settings.append(f"{name} {format_value(values.pop())}")
    return settings


def _arm_values(trial: TrialConfig) -> tuple[object, ...]:
    return tuple(getattr(trial, name) for name in ARM_FIELDS)
