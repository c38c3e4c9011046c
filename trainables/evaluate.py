"""Final metrics and artifacts of a trained network.

Each metric is a function of passes of images through the network. A pass is made when a metric first needs
it, so that evaluation after training, which needs them all, and measuring a metric later are one path.

Shapes: N images evaluated, D = feature_dim, M = embedding_dim, K classes.
"""

import io
import types
import zipfile
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from trainables import measures
from trainables.datasets.splits import Indices, stratified_choice
from trainables.evaluator import Evaluator
from trainables.kept import npz, of_features, of_predictions, relative_logits
from trainables.linear_probe import fit_linear_probe
from trainables.metrics import METRICS, OWN, PREDICTIONS
from trainables.own_metric import measure_own
from trainables.passes import NonFiniteOutputs, Passes
from trainables.redact import first_line

FAILED_METRICS = "failed_metrics.txt"
"""Artifact that says why metrics of a file of your own have no value."""
FITTED_IMAGES = 50_000
"""Training images that the classifier of a network trained without labels is fitted to, at most."""


def fit_classifier(evaluator: Evaluator, train: Indices, validation: Indices) -> None:
    """Make the network's classifier the linear probe on its frozen features.

    For a network that was trained without labels: whatever is then measured of its classes is the probe's.
    It is fitted to all of the labelled training images `train` (n,), or to 50,000 of them, with a strength
    that is chosen on `validation` (v,), those held out, if any.
    """
    labels = evaluator.dataset.train.labels
    images = train[stratified_choice(labels[train], FITTED_IMAGES)]
    outputs = evaluator.outputs("train", images, None)
    held_out = None
    if len(validation):
        chosen = evaluator.outputs("train", validation, None)
        held_out = chosen.h, chosen.labels
    probe = fit_linear_probe(outputs.h.to(evaluator.device), outputs.labels, held_out)
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
        name: FORMULAS[name](passes) if name in FORMULAS else measure_own(own[name], _inputs(passes))
        for name in names
        if METRICS[name].where.holds(config)
    }


def _inputs(of: Passes) -> dict[str, Callable[[], Tensor]]:
    """What a metric in a file of your own may ask for."""
    return {
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


def evaluate(
    evaluator: Evaluator, train: Indices, validation: Indices
) -> tuple[dict[str, float], dict[str, bytes]]:
    """Final metrics and the artifacts `predictions.npz` and `embeddings.npz`.

    `train` (n,) are the labelled training images that it has seen, `validation` (v,) those held out, if any.

    Returns:
        Metrics by name, as of `measure`, without those of files of your own that failed; then files by name,
        with `FAILED_METRICS` if any failed.

    Raises:
        NonFiniteOutputs: features or scores are not finite.
    """
    passes = Passes(evaluator=evaluator, train=train, validation=validation)
    metrics = measure(passes, FORMULAS)
    own, failed = _own_metrics(passes)
    dataset = evaluator.dataset
    embeddings = {
        **of_features("train", passes.train_aug.h, dataset.train.labels, train[passes.shown]),
        **of_features("test", passes.h, dataset.test.labels, passes.measured),
    }
    if evaluator.config.uses("embedding_dim"):
        embeddings["train_z"] = evaluator.embedding(passes.train_aug.h).half().numpy()
        embeddings["test_z"] = passes.z.half().numpy()
    arrays = {PREDICTIONS: npz(_predictions(passes)), "embeddings.npz": npz(embeddings)}
    return metrics | own, arrays | ({FAILED_METRICS: failed.encode()} if failed else {})


def _own_metrics(passes: Passes) -> tuple[dict[str, float], str]:
    """The metrics of files of your own, by name, and a line for each that failed.

    A trial is worth more than one of its metrics: it ends without it, and `study/measure.py` can add it.
    """
    measured: dict[str, float] = {}
    failed = []
    for name in OWN.values():
        try:
            measured |= measure(passes, [name])
        except NonFiniteOutputs:
            raise
        except Exception as error:  # of the user's code
            failed.append(f"{name}: {type(error).__name__}: {first_line(error)}\n")
    return measured, "".join(failed)


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
