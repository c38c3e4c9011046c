"""What to call the cells and arms of a selection: what varies between them, and no more."""

from collections.abc import Collection, Sequence

from trainables.trial import ARM_FIELDS, CELL_FIELDS, FieldValue, TrialConfig, format_value


def name_cells(trials: Sequence[TrialConfig]) -> dict[tuple[FieldValue, ...], str]:
    """What to call each cell: dataset, backbone, augmentations, and what else varies between cells."""
    firsts = {trial.cell: trial for trial in trials}
    always = ("dataset", "backbone", "augmentations")
    varying = varying_fields(trials, besides=always)
    return {
        cell: " · ".join(
            [trial.dataset, trial.backbone, _augmentations(trial)]
            + [f"{name} {format_value(getattr(trial, name))}" for name in varying]
        )
        for cell, trial in firsts.items()
    }


def _augmentations(trial: TrialConfig) -> str:
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


def _arm_values(trial: TrialConfig) -> tuple[object, ...]:
    return tuple(getattr(trial, name) for name in ARM_FIELDS)
