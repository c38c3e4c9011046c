"""Final metrics and artifacts of a trained network.

Each metric is a function of passes of images through the network. A pass is made when a metric first needs
it, so that evaluation after training, which needs them all, and measuring a metric later are one path.

Shapes: N images evaluated, D = feature_dim, M = embedding_dim, K classes.
"""

import io
import math
import types
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables import measures
from trainables.catalogue import AUGMENTATIONS, TRANSFORMS
from trainables.datasets.splits import Indices, stratified_choice
from trainables.evaluator import NO_FEATURES, Evaluator, Outputs
from trainables.extensions import METRIC_INPUTS, functions
from trainables.extensions.functions import inputs_of
from trainables.kept import npz, of_features, of_predictions, relative_logits
from trainables.linear_probe import LinearProbe, fit_linear_probe
from trainables.metrics import METRICS, OWN, PREDICTIONS

EMBEDDED_IMAGES = 2000
"""Images of each split whose features are kept, and measured: fixed and stratified."""
BANK_IMAGES = 10_000
"""Training images among which neighbours are looked for and to which linear probes are fitted, and validation
images that choose the strength of a probe: fixed and stratified."""


class NonFiniteOutputs(ArithmeticError):
    """The outputs of a trained network are infinite or not a number."""


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What the metrics look at: passes of images through a network, each made once, when first needed.

    Attributes:
        train: (n,) labelled training images that the network has seen; `validation` (v,) those held out.
    """

    evaluator: Evaluator
    train: Indices
    validation: Indices

    @cached_property
    def bank(self) -> Indices:
        """Positions in `train` of the images among which neighbours are, and to which probes are fitted."""
        return stratified_choice(self._train_labels, BANK_IMAGES)

    @cached_property
    def shown(self) -> Indices:
        """Positions in `train` of the images whose features are kept."""
        return stratified_choice(self._train_labels, EMBEDDED_IMAGES)

    @cached_property
    def choosing(self) -> Indices:
        """Positions in `validation` of the images that choose the strength of a linear probe."""
        return stratified_choice(self.evaluator.dataset.train.labels[self.validation], BANK_IMAGES)

    @cached_property
    def measured(self) -> Indices:
        """Test images whose features are kept and measured."""
        return stratified_choice(self.evaluator.dataset.test.labels, EMBEDDED_IMAGES)

    @cached_property
    def train_clean(self) -> Outputs:
        """Of clean training images, with the features of those in the bank."""
        return self._outputs("train", self.train, None, keep=self.bank)

    @cached_property
    def train_aug(self) -> Outputs:
        """Of training images augmented by the trial's own subset."""
        return self._outputs("train", self.train, self._subset, keep=self.shown)

    @cached_property
    def held_out(self) -> Outputs:
        """Of clean validation images, with the features of those that choose the strength of a probe."""
        return self._outputs("train", self.validation, None, keep=self.choosing)

    @cached_property
    def test(self) -> Outputs:
        """Of clean test images, with all their features."""
        return self._outputs("test", self._every, None)

    @cached_property
    def test_aug(self) -> Outputs:
        """Of test images augmented by the trial's own subset."""
        return self._outputs("test", self._every, self._subset, keep=NO_FEATURES)

    @cached_property
    def test_augcrop(self) -> Outputs:
        """Of test images augmented by that subset and random crops."""
        cropped = tuple(name for name in AUGMENTATIONS if name in ("rrc", *self._subset))
        if cropped == self._subset:
            return self.test_aug
        return self._outputs("test", self._every, cropped, keep=NO_FEATURES)

    @cached_property
    def view1(self) -> Outputs:
        """Of test images under all four transforms at their default strengths."""
        return self._outputs("test", self._every, TRANSFORMS, reference=True, keep=self.measured)

    @cached_property
    def view2(self) -> Outputs:
        """Of another such view of the measured test images."""
        return self._outputs("test", self.measured, TRANSFORMS, reference=True, view=1)

    @cached_property
    def test_bnrecal(self) -> Outputs:
        """Of clean test images, with batch norm's statistics re-estimated on clean training images."""
        with self.evaluator.clean_statistics(self.train):
            return self._outputs("test", self._every, None, keep=NO_FEATURES)

    @cached_property
    def bank_features(self) -> tuple[Tensor, Tensor]:
        """Features (m, D) of the bank, on the network's device, and their labels (m,)."""
        bank = self.train_clean.some(self.bank)
        return bank.h.to(self.evaluator.device), bank.labels

    @cached_property
    def neighbours(self) -> measures.Neighbours:
        """The nearest images of the bank for each test image, as many as any metric asks for."""
        bank, labels = self.bank_features
        most = max(measures.NEIGHBOURS, measures.weighted_neighbours(labels))
        return measures.nearest(self.test.h, bank, labels, most)

    @cached_property
    def views(self) -> tuple[Outputs, Outputs]:
        """Of two augmented views of the measured test images."""
        return self.view1.some(self.measured), self.view2

    @cached_property
    def h(self) -> Tensor:
        """Features (n, D) of the measured test images."""
        return self.test.h[torch.from_numpy(self.measured)]

    @cached_property
    def labels(self) -> Tensor:
        """Labels (n,) of the measured test images."""
        return self.test.labels[torch.from_numpy(self.measured)]

    @cached_property
    def z(self) -> Tensor:
        """Embeddings (n, M) of the measured test images."""
        return self.evaluator.embedding(self.h)

    def linear_probe(self, features: Callable[[Tensor], Tensor] = lambda h: h) -> float:
        """Accuracy on clean test images of a linear probe on `features` of h (N, D)."""
        return self.fitted_probe(features).accuracy(features(self.test.h), self.test.labels)

    def fitted_probe(self, features: Callable[[Tensor], Tensor] = lambda h: h) -> LinearProbe:
        """The linear probe on `features` of h (N, D)."""
        bank, labels = self.bank_features
        held_out = None
        if len(self.validation):
            chosen = self.held_out.some(self.choosing)
            held_out = features(chosen.h), chosen.labels
        return fit_linear_probe(features(bank).to(bank.device), labels, held_out)

    @property
    def _subset(self) -> tuple[str, ...]:
        return self.evaluator.config.augmentations

    @property
    def _every(self) -> Indices:
        return np.arange(len(self.evaluator.dataset.test.labels))

    @property
    def _train_labels(self) -> Indices:
        return self.evaluator.dataset.train.labels[self.train]

    def _outputs(self, split: str, *arguments: Any, **options: Any) -> Outputs:
        """`Evaluator.outputs`; raises if they are not finite, which they may be even where weights are."""
        outputs = self.evaluator.outputs(split, *arguments, **options)
        if not (outputs.h.isfinite().all() and outputs.logits.isfinite().all()):
            raise NonFiniteOutputs(f"features or scores of {split} images are not finite")
        return outputs


def fit_classifier(evaluator: Evaluator, train: Indices, validation: Indices) -> None:
    """Make the network's classifier the linear probe on its frozen features.

    For a network that was trained without labels: whatever is then measured of its classes is the probe's.
    `train` (n,) are the labelled training images, `validation` (v,) those held out, if any.
    """
    passes = Passes(evaluator=evaluator, train=train, validation=validation)
    probe = passes.fitted_probe()
    classifier = evaluator.net.classifier
    assert isinstance(classifier, nn.Linear)  # noqa: S101  # for the type checker: `build` made it
    with torch.no_grad():
        # A class without an image in the bank is never the highest.
        classifier.weight.zero_()
        classifier.bias.fill_(torch.finfo(torch.float16).min)
        classifier.weight[probe.classes] = probe.slopes.T.float().to(classifier.weight.device)
        classifier.bias[probe.classes] = probe.bias.float().to(classifier.bias.device)


FORMULAS: Mapping[str, Callable[[Passes], float]] = types.MappingProxyType(
    {
        "train_acc": lambda of: of.train_clean.accuracy,
        "train_aug_acc": lambda of: of.train_aug.accuracy,
        "test_acc": lambda of: of.test.accuracy,
        "test_acc_bnrecal": lambda of: of.test_bnrecal.accuracy,
        "test_aug_acc": lambda of: of.test_aug.accuracy,
        "test_augcrop_acc": lambda of: of.test_augcrop.accuracy,
        "test_augfull_acc": lambda of: of.view1.accuracy,
        "test_ce": lambda of: measures.cross_entropy(of.test.logits, of.test.labels),
        "test_ece": lambda of: measures.calibration_error(of.test.logits, of.test.labels),
        "test_ece_floor": lambda of: measures.calibration_floor(of.test.logits.softmax(1).amax(1)),
        "linear_probe_acc": lambda of: of.linear_probe(),
        "z_linear_probe_acc": lambda of: of.linear_probe(of.evaluator.embedding),
        "knn_weighted_acc": lambda of: measures.weighted_knn_accuracy(
            of.neighbours, of.test.labels, k=measures.weighted_neighbours(of.bank_features[1])
        ),
        "knn_acc": lambda of: measures.knn_accuracy(of.neighbours, of.test.labels),
        "view_agreement": lambda of: measures.view_agreement(*(view.logits for view in of.views)),
        "view_kappa": lambda of: measures.view_kappa(*(view.logits for view in of.views)),
        "view_both_right": lambda of: measures.view_both_right(
            of.views[0].logits, of.views[1].logits, of.labels
        ),
        "view_cosine": lambda of: measures.view_cosine(*(view.h for view in of.views)),
        "effective_rank": lambda of: measures.effective_rank(of.h),
        "silhouette": lambda of: measures.silhouette(of.h, of.labels),
        "val_acc": lambda of: of.held_out.accuracy,
        "val_ece": lambda of: measures.calibration_error(of.held_out.logits, of.held_out.labels),
        "z_effective_rank": lambda of: measures.effective_rank(of.z),
    }
)
"""Each metric that a network and its data give, by name."""

FROM_PREDICTIONS: Mapping[str, Callable[[Mapping[str, np.ndarray]], float]] = types.MappingProxyType(
    {
        "test_acc": lambda kept: measures.share_equal(*_tensors(kept, "predicted", "labels")),
        "test_aug_acc": lambda kept: measures.share_equal(*_tensors(kept, "predicted_aug", "labels")),
        "test_ece_floor": lambda kept: measures.calibration_floor(*_tensors(kept, "probability")),
    }
)
"""Metrics that the arrays of `predictions.npz` give to the last digit, without network and data."""


def measure(passes: Passes, names: Iterable[str]) -> dict[str, float]:
    """Those of the named metrics that the trial has, by name: fractions, nats or plain numbers.

    Raises:
        NonFiniteOutputs: features or scores are not finite.
    """
    config = passes.evaluator.config
    own = {key: name for name, key in OWN.items()}
    return {
        name: FORMULAS[name](passes) if name in FORMULAS else _own_metric(own[name], passes)
        for name in names
        if METRICS[name].where.holds(config)
    }


def _own_metric(name: str, of: Passes) -> float:
    """A metric that a file of your own defines; ValueError where it returns no finite number."""
    function = functions["metric", name]
    inputs: dict[str, Callable[[], Tensor]] = {
        "logits": lambda: of.test.logits,
        "labels": lambda: of.test.labels,
        "h": lambda: of.test.h,
        "z": lambda: of.evaluator.embedding(of.test.h),
        "logits1": lambda: of.views[0].logits,
        "logits2": lambda: of.views[1].logits,
        "h1": lambda: of.views[0].h,
        "h2": lambda: of.views[1].h,
        "view_labels": lambda: of.labels,
    }
    value = function(**{given: inputs[given]() for given in inputs_of(function, METRIC_INPUTS)})
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
        number = math.nan
    if not math.isfinite(number):
        got = repr(value).splitlines()[0]
        raise ValueError(f"metric {name!r} returned {got}; allowed: one finite number")
    return number


def evaluate(
    evaluator: Evaluator, train: Indices, validation: Indices
) -> tuple[dict[str, float], dict[str, bytes]]:
    """Final metrics and the artifacts `predictions.npz` and `embeddings.npz`.

    `train` (n,) are the labelled training images that it has seen, `validation` (v,) those held out, if any.

    Returns:
        Metrics by name, as of `measure`; then files by name.

    Raises:
        NonFiniteOutputs: features or scores are not finite.
    """
    passes = Passes(evaluator=evaluator, train=train, validation=validation)
    metrics = measure(passes, [*FORMULAS, *OWN.values()])
    dataset = evaluator.dataset
    embeddings = {
        **of_features("train", passes.train_aug.h, dataset.train.labels, train[passes.shown]),
        **of_features("test", passes.h, dataset.test.labels, passes.measured),
    }
    if evaluator.config.uses("embedding_dim"):
        embeddings["train_z"] = evaluator.embedding(passes.train_aug.h).half().numpy()
        embeddings["test_z"] = passes.z.half().numpy()
    return metrics, {PREDICTIONS: npz(_predictions(passes)), "embeddings.npz": npz(embeddings)}


def _predictions(passes: Passes) -> dict[str, np.ndarray]:
    """The arrays of `predictions.npz`: of test images, clean and augmented, and of any validation images."""
    kept = {
        "labels": passes.test.labels.numpy(),
        **of_predictions(passes.test.logits, ""),
        **of_predictions(passes.test_aug.logits, "_aug"),
        "logits_augcrop": relative_logits(passes.test_augcrop.logits),
        "logits_augfull": relative_logits(passes.view1.logits),
        "logits_view2": relative_logits(passes.view2.logits),
        "view2_index": passes.measured,
    }
    if len(passes.validation):
        kept["val_logits"] = relative_logits(passes.held_out.logits)
        kept["val_labels"] = passes.held_out.labels.numpy()
        kept["val_index"] = passes.validation
    return kept


def from_predictions(content: bytes, names: Iterable[str]) -> dict[str, float]:
    """Metrics of `FROM_PREDICTIONS` from the content of `predictions.npz`; ValueError where it is damaged."""
    try:
        with np.load(io.BytesIO(content)) as file:
            kept = dict(file)
        return {name: FROM_PREDICTIONS[name](kept) for name in names}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{PREDICTIONS} is damaged: {error}") from error


def _tensors(arrays: Mapping[str, np.ndarray], *names: str) -> list[Tensor]:
    return [torch.from_numpy(arrays[name]) for name in names]
