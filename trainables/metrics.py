"""The final metrics: what each is called, in which unit people read it, where it is shown.

Standard library only. Their formulas are in `trainables.measures`, the images they are applied to in
`trainables.evaluate`.
"""

import types
from collections.abc import Mapping
from dataclasses import dataclass

from trainables.setting import ALWAYS, Rule

WEIGHTS, PREDICTIONS = "weights.safetensors", "predictions.npz"
"""Artifacts of a trial's run that metrics can be measured from again."""
HELD_OUT = Rule("val_fraction > 0", lambda trial: trial.val_fraction > 0)
WITH_EMBEDDING = Rule("γ > 0", lambda trial: trial.uses("embedding_dim"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A final metric.

    Attributes:
        title: in tables.
        unit: `%`: a fraction, shown in per cent; `s`: seconds; empty: a plain number.
        better: `higher` or `lower`; empty where neither is.
        table: `accuracy`, `diagnostics` or `cost`: the table of a report that shows it.
        objective: whether a search may optimise it: no test image has a part in it.
        where: the trials that have it.
        measured_from: artifacts each of which gives it again without training, the cheapest first (from
            weights also the data are needed); empty: only training itself gives it.
    """

    title: str
    unit: str = "%"
    better: str = "higher"
    table: str = "diagnostics"
    objective: bool = False
    where: Rule = ALWAYS
    measured_from: tuple[str, ...] = (WEIGHTS,)

    @property
    def axis(self) -> str:
        """The title on its own, as on the axis of a figure."""
        if self.table == "accuracy":
            return f"{self.title} accuracy"
        return f"{self.title} (s)" if self.unit == "s" else self.title


_metrics = {
    "train_aug_acc": Metric(title="Train (augmented)", table="accuracy"),
    "train_acc": Metric(title="Train (clean)", table="accuracy"),
    "val_acc": Metric(title="Validation", table="accuracy", objective=True, where=HELD_OUT),
    "test_acc": Metric(title="Test", table="accuracy", measured_from=(PREDICTIONS, WEIGHTS)),
    "test_aug_acc": Metric(title="Test (augmented)", table="accuracy", measured_from=(PREDICTIONS, WEIGHTS)),
    "test_augcrop_acc": Metric(title="Test (augmented and cropped)", table="accuracy"),
    "test_augfull_acc": Metric(title="Test (all augmentations)", table="accuracy"),
    "test_acc_bnrecal": Metric(title="Test, batch norm re-estimated"),
    "linear_probe_acc": Metric(title="Linear probe on h"),
    "z_linear_probe_acc": Metric(title="Linear probe on z", where=WITH_EMBEDDING),
    "knn_weighted_acc": Metric(title="kNN on h, weighted votes"),
    "knn_acc": Metric(title="kNN on h, 20 equal votes"),
    "test_ce": Metric(title="Test cross-entropy", unit="", better="lower"),
    "test_ece": Metric(title="Calibration error (ECE)", better="lower"),
    "test_ece_floor": Metric(
        title="ECE if perfectly calibrated", better="", measured_from=(PREDICTIONS, WEIGHTS)
    ),
    "val_ece": Metric(
        title="Validation calibration error (ECE)", better="lower", objective=True, where=HELD_OUT
    ),
    "view_agreement": Metric(title="Agreement of two views"),
    "view_kappa": Metric(title="Agreement beyond chance (kappa)", unit=""),
    "view_both_right": Metric(title="Both views right"),
    "view_cosine": Metric(title="Cosine of two views", unit=""),
    "effective_rank": Metric(title="Effective rank of h", unit="", better=""),
    "z_effective_rank": Metric(title="Effective rank of z", unit="", better="", where=WITH_EMBEDDING),
    "silhouette": Metric(title="Silhouette of h", unit=""),
    "train_seconds": Metric(
        title="Training time", unit="s", better="lower", table="cost", objective=True, measured_from=()
    ),
    "evaluate_seconds": Metric(
        title="Evaluation time", unit="s", better="lower", table="cost", measured_from=()
    ),
    **{
        name: Metric(title=title, unit=unit, better="", table="cost", measured_from=())
        for name, title, unit in (
            ("cpu_seconds", "CPU time", "s"),
            ("cpu_utilization", "Use of the granted CPUs", "%"),
            ("memory_peak_mb", "Peak memory (MB)", ""),
            ("memory_mean_mb", "Mean memory (MB)", ""),
            ("cpu_energy_wh", "Energy of CPUs (Wh)", ""),
            ("gpu_seconds", "GPU time", "s"),
            ("gpu_utilization", "Use of the GPU", "%"),
            ("gpu_memory_peak_mb", "Peak GPU memory (MB)", ""),
            ("gpu_energy_wh", "Energy of the GPU (Wh)", ""),
        )
    },
}
METRICS: Mapping[str, Metric] = types.MappingProxyType(_metrics)
"""Every final metric by its name in the ledger (there with the prefix `final/`), in the order of tables."""

ACCURACIES: Mapping[str, str] = types.MappingProxyType(
    {name: metric.title for name, metric in METRICS.items() if metric.table == "accuracy"}
)
"""The accuracies with their titles."""

TESTED = "test_acc"
"""The metric that arms are compared by, and the only one with p-values."""

OBJECTIVES: Mapping[str, str] = types.MappingProxyType(
    {
        name: "maximize" if metric.better == "higher" else "minimize"
        for name, metric in METRICS.items()
        if metric.objective
    }
)
"""The metrics that a search may optimise, with Optuna's word for the direction."""

TRAIN_PASSES, TEST_PASSES = 3, 5
"""How often the final metrics take all training and all test images through the network."""

_own: dict[str, str] = {}
OWN: Mapping[str, str] = types.MappingProxyType(_own)
"""Names in `METRICS` of those that a file of your own defines, by their names there. They end in a digest of
their code: a metric that was edited is another one, which trials measured before do not have."""


def add_own_metric(name: str, code: str, about: Metric) -> None:
    """Add a metric that a file of your own defines."""
    _own[name] = f"{name}-{code[:8]}"
    _metrics[_own[name]] = about


def remove_own_metric(name: str) -> None:
    """Forget it again."""
    del _metrics[_own.pop(name)]
