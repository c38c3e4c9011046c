"""Final metrics and artifacts."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainables import data, measures
from trainables import evaluator as evaluator_module
from trainables import passes as passes_module
from trainables.augment import normalise
from trainables.catalogue import TRANSFORMS
from trainables.datasets.splits import Indices, stratified_choice
from trainables.evaluate import evaluate, measure
from trainables.evaluator import NO_FEATURES, Evaluator, Outputs
from trainables.kept import relative_logits
from trainables.linear_probe import linear_probe_accuracy
from trainables.models import SiameseNet, build
from trainables.passes import NonFiniteOutputs, Passes
from trainables.storage.bundles import TrialResult
from trainables.trial import TrialConfig

Tiny = Callable[..., TrialConfig]
Trained = Callable[..., TrialResult]
MakeEvaluator = Callable[..., Evaluator]

EVERY = np.arange(500)
"""All test images."""


@pytest.fixture
def evaluator(tiny: Tiny, digits: data.Dataset) -> MakeEvaluator:
    """Evaluators of untrained networks that nevertheless tell images apart."""

    def make(**changes: Any) -> Evaluator:
        config = tiny(**{"val_fraction": 0, **changes})
        net = build(config, num_classes=10)
        with torch.no_grad():
            for start in range(0, 1000, 50):  # for the statistics of batch norm
                images = torch.from_numpy(digits.train.images[start : start + 50] / 255).float()
                net.features(normalise(images, digits.mean, digits.std))
        return Evaluator(config=config, net=net, dataset=digits, device=torch.device("cpu"))

    return make


@pytest.fixture
def seen(tiny: Tiny, digits: data.Dataset) -> Callable[..., Tensor]:
    """What a network would see: normalised pixels of test images, (N, 3 * S * S)."""

    def pixels(
        transforms: tuple[str, ...] | None,
        *,
        indices: Indices = EVERY,
        view: int = 0,
        reference: bool = False,
        **changes: Any,
    ) -> Tensor:
        net = SiameseNet(nn.Flatten(), nn.Identity(), nn.Identity())
        looking = Evaluator(config=tiny(**changes), net=net, dataset=digits, device=torch.device("cpu"))
        return looking.outputs("test", indices, transforms, view=view, reference=reference).h

    return pixels


def arrays(result: TrialResult, name: str) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(result.artifacts[name])) as file:
        return dict(file)


def test_clean_outputs_are_a_plain_forward_pass(evaluator: MakeEvaluator, digits: data.Dataset) -> None:
    e = evaluator(precision="bf16")  # evaluated in fp32 all the same
    outputs = e.outputs("train", np.arange(700), None)
    images = digits.train.images[:700] / 255
    x = (images - np.reshape(digits.mean, (3, 1, 1))) / np.reshape(digits.std, (3, 1, 1))
    with torch.no_grad():
        h = e.net.eval().backbone(torch.from_numpy(x).float())
        logits = e.net.classifier(h)
    assert outputs.h.dtype == outputs.logits.dtype == torch.float32
    torch.testing.assert_close(outputs.h, h, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.logits, logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(outputs.labels, torch.from_numpy(digits.train.labels[:700]))
    assert len(outputs.logits.argmax(1).unique()) > 1


def test_evaluation_leaves_the_network_as_it_is(evaluator: MakeEvaluator) -> None:
    e = evaluator()
    before = {name: value.clone() for name, value in e.net.state_dict().items()}
    e.net.train()
    first = e.outputs("test", EVERY, TRANSFORMS)
    assert all(torch.equal(value, before[name]) for name, value in e.net.state_dict().items())
    assert torch.equal(e.outputs("test", EVERY, TRANSFORMS).logits, first.logits)


def test_draws_of_an_image_do_not_depend_on_who_else_is_evaluated(seen: Callable[..., Tensor]) -> None:
    some = np.array([499, 3, 77, 3])
    assert torch.equal(seen(TRANSFORMS, indices=some), seen(TRANSFORMS)[some])
    assert torch.equal(seen(TRANSFORMS, indices=EVERY[::-1].copy()), seen(TRANSFORMS).flip(0))


def test_all_trials_are_evaluated_on_the_same_augmented_images(seen: Callable[..., Tensor]) -> None:
    expected = seen(TRANSFORMS)
    torch.manual_seed(5)
    for changes in (
        {"seed": 1},
        {"method": "ce"},
        {"gamma": 0},
        {"views": "asymmetric"},
        {"augmentations": ()},
    ):
        assert torch.equal(seen(TRANSFORMS, **changes), expected)


@pytest.mark.parametrize(
    "strength", [{"crop_scale_min": 0.5}, {"hflip_p": 1}, {"grayscale_p": 0.9}, {"solarize_p": 0.8}]
)
def test_reference_images_do_not_depend_on_the_strengths_of_the_trial(
    strength: dict[str, float], seen: Callable[..., Tensor]
) -> None:
    of = {"augmentations": TRANSFORMS, **strength}
    assert torch.equal(seen(TRANSFORMS, reference=True, **of), seen(TRANSFORMS))
    assert not torch.equal(seen(TRANSFORMS, **of), seen(TRANSFORMS))


def test_subsets_share_their_draws(seen: Callable[..., Tensor]) -> None:
    flipped, both = seen(("hflip",)), seen(("hflip", "solarize"))
    alike = (flipped == both).all(1).float().mean().item()
    assert alike == pytest.approx(0.8, abs=0.06)  # the others are solarized
    assert torch.equal(seen(()), seen(None))


def test_views_of_an_image_differ(seen: Callable[..., Tensor]) -> None:
    assert (seen(TRANSFORMS) != seen(TRANSFORMS, view=1)).any(1).all()


def test_metrics_are_of_the_images_that_their_names_say(evaluator: MakeEvaluator) -> None:
    train, validation = np.arange(0, 1000), np.arange(1000, 1297)
    e = evaluator(augmentations=("hflip", "solarize"), val_fraction=0.1)
    metrics, _ = evaluate(e, train, validation)
    expected = {
        "train_acc": ("train", train, None),
        "train_aug_acc": ("train", train, ("hflip", "solarize")),
        "test_acc": ("test", EVERY, None),
        "test_aug_acc": ("test", EVERY, ("hflip", "solarize")),
        "test_augcrop_acc": ("test", EVERY, ("rrc", "hflip", "solarize")),
        "val_acc": ("train", validation, None),
    }
    assert len({metrics[name] for name in expected}) > 4  # few are alike by chance
    others = {"test_acc_bnrecal", "test_ce", "test_ece", "knn_acc", "view_agreement", "view_cosine"}
    others |= {"val_ece", "effective_rank", "silhouette", "z_effective_rank"}
    others |= {"linear_probe_acc", "z_linear_probe_acc", "knn_weighted_acc", "test_ece_floor"}
    others |= {"view_kappa", "view_both_right"}
    assert metrics.keys() == expected.keys() | {"test_augfull_acc"} | others
    for name, of in expected.items():
        assert metrics[name] == e.outputs(*of).accuracy, name
    assert metrics["test_augfull_acc"] == e.outputs("test", EVERY, TRANSFORMS, reference=True).accuracy
    assert evaluate(evaluator(), train, np.arange(0))[0].keys() == metrics.keys() - {"val_acc", "val_ece"}


def test_accuracies_are_those_of_the_predictions(trained: Trained, digits: data.Dataset) -> None:
    result = trained(epochs=10)
    predictions = arrays(result, "predictions.npz")
    np.testing.assert_array_equal(predictions["labels"], digits.test.labels)
    for suffix, metric in (("", "test_acc"), ("_aug", "test_aug_acc")):
        predicted, probability = predictions[f"predicted{suffix}"], predictions[f"probability{suffix}"]
        assert (predicted == digits.test.labels).mean() == pytest.approx(result.metrics[metric], abs=1e-12)
        assert len(np.unique(predicted)) > 1
        assert probability.min() >= 0.1  # the most probable of ten
        assert probability.max() <= 1


def test_predictions_are_the_most_probable_classes(evaluator: MakeEvaluator) -> None:
    e, validation = evaluator(val_fraction=0.1, augmentations=("hflip",)), np.arange(70, 200)
    metrics, artifacts = evaluate(e, np.arange(50), validation)
    predictions = arrays(TrialResult(metrics={}, history=(), artifacts=artifacts), "predictions.npz")

    def check_logits(name: str, outputs: Outputs) -> np.ndarray:
        kept, logits = predictions[name], outputs.logits.double().numpy()
        assert kept.dtype == np.float16
        np.testing.assert_allclose(kept, logits - logits.max(1, keepdims=True), rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(kept.argmax(1), logits.argmax(1))
        return logits

    for suffix, transforms in (("", None), ("_aug", ("hflip",))):
        logits = check_logits(f"logits{suffix}", e.outputs("test", EVERY, transforms))
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_array_equal(predictions[f"predicted{suffix}"], shares.argmax(1))
        np.testing.assert_allclose(predictions[f"probability{suffix}"], shares.max(1), rtol=1e-5)
    check_logits("logits_augcrop", e.outputs("test", EVERY, ("rrc", "hflip")))
    check_logits("logits_augfull", e.outputs("test", EVERY, TRANSFORMS, reference=True))
    check_logits("val_logits", e.outputs("train", validation, None))
    view2 = predictions["view2_index"]
    check_logits("logits_view2", e.outputs("test", view2, TRANSFORMS, reference=True, view=1))
    # What they are kept for: other measures of the same predictions.
    np.testing.assert_array_equal(predictions["val_index"], validation)
    assert (predictions["val_logits"].argmax(1) == predictions["val_labels"]).mean() == metrics["val_acc"]
    of_test = torch.from_numpy(predictions["logits"]), torch.from_numpy(predictions["labels"])
    assert measures.cross_entropy(*of_test) == pytest.approx(metrics["test_ce"], rel=1e-4)
    views = [torch.from_numpy(predictions[name]) for name in ("logits_augfull", "logits_view2")]
    assert measures.view_agreement(views[0][view2], views[1]) == metrics["view_agreement"]


def test_without_validation_images_none_are_kept(evaluator: MakeEvaluator) -> None:
    _, artifacts = evaluate(evaluator(), np.arange(50), np.arange(0))
    predictions = arrays(TrialResult(metrics={}, history=(), artifacts=artifacts), "predictions.npz")
    assert not [name for name in predictions if name.startswith("val")]


def test_kept_logits_are_finite_and_keep_what_is_predicted() -> None:
    logits = torch.tensor([[1e6, -1e6, 0], [12.0001, 12.0002, -3]])
    kept = relative_logits(logits)
    np.testing.assert_array_equal(kept[0], np.float16([0, -65504, -65504]))
    assert kept.argmax(1).tolist() == [0, 1]  # as plain float16 both were 12


def test_embeddings(trained: Trained, digits: data.Dataset) -> None:
    kept = arrays(trained(), "embeddings.npz")
    for split, count, of in (("train", 50, digits.train), ("test", 500, digits.test)):
        assert kept[f"{split}_h"].shape == (count, 16)
        assert kept[f"{split}_z"].shape == (count, 8)
        assert kept[f"{split}_h"].dtype == kept[f"{split}_z"].dtype == np.float16
        np.testing.assert_array_equal(kept[f"{split}_labels"], of.labels[kept[f"{split}_index"]])
    assert sorted(kept["test_index"]) == [*range(500)]


def test_embeddings_are_augmented_in_training_and_clean_in_test(evaluator: MakeEvaluator) -> None:
    e = evaluator()
    train = np.arange(100, 150)
    _, artifacts = evaluate(e, train, np.arange(0))
    kept = arrays(TrialResult(metrics={}, history=(), artifacts=artifacts), "embeddings.npz")
    for split, indices, transforms in (("train", train, e.config.augmentations), ("test", EVERY, None)):
        np.testing.assert_array_equal(kept[f"{split}_index"], indices)
        h = e.outputs(split, indices, transforms).h
        with torch.no_grad():
            z = e.net.embedding(h)
        np.testing.assert_array_equal(kept[f"{split}_h"], h.half().numpy())
        np.testing.assert_allclose(kept[f"{split}_z"], z.half().numpy(), atol=1e-3)


def test_embeddings_are_of_the_same_images_in_all_trials(trained: Trained) -> None:
    first = arrays(trained(), "embeddings.npz")
    for changes in ({"seed": 1}, {"method": "ce"}, {"gamma": 0}):
        other = arrays(trained(**changes), "embeddings.npz")
        for split in ("train", "test"):
            np.testing.assert_array_equal(other[f"{split}_index"], first[f"{split}_index"])
            assert not np.array_equal(other[f"{split}_h"], first[f"{split}_h"])
        assert any(name.endswith("_z") for name in other) == ("seed" in changes)  # z where gamma > 0


def test_no_more_embeddings_than_asked_for_in_proportion_to_classes(
    evaluator: MakeEvaluator, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes_module, "EMBEDDED_IMAGES", 100)
    _, artifacts = evaluate(evaluator(), np.arange(200, 1200), np.arange(0))
    kept = arrays(TrialResult(metrics={}, history=(), artifacts=artifacts), "embeddings.npz")
    for split, of in (("train", digits.train.labels[200:1200]), ("test", digits.test.labels)):
        assert len(kept[f"{split}_h"]) == len(kept[f"{split}_z"]) == 100
        counts = np.bincount(kept[f"{split}_labels"])
        assert np.abs(counts - 100 * np.bincount(of) / len(of)).max() <= 1


def test_features_are_kept_of_those_asked_for_across_batches(evaluator: MakeEvaluator) -> None:
    e = evaluator()
    indices = EVERY[::-1].copy()
    every = e.outputs("train", np.concatenate([indices, indices + 500]), None)
    keep = np.array([0, 3, 499, 500, 501, 999])
    some = e.outputs("train", np.concatenate([indices, indices + 500]), None, keep=keep)
    assert torch.equal(some.h, every.h[keep])
    assert torch.equal(some.logits, every.logits)
    assert e.outputs("train", indices, None, keep=NO_FEATURES).h.shape == (0, 16)


def test_measures_are_of_the_images_that_method_says(
    evaluator: MakeEvaluator, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes_module, "EMBEDDED_IMAGES", 100)
    monkeypatch.setattr(passes_module, "BANK_IMAGES", 300)
    train = np.arange(100, 1100)
    e = evaluator(augmentations=("hflip",))
    metrics, _ = evaluate(e, train, np.arange(0))
    clean = e.outputs("test", EVERY, None)
    assert metrics["test_ce"] == measures.cross_entropy(clean.logits, clean.labels)
    assert metrics["test_ece"] == measures.calibration_error(clean.logits, clean.labels)
    bank = e.outputs("train", train[stratified_choice(digits.train.labels[train], 300)], None)
    near = measures.nearest(clean.h, bank.h, bank.labels, 300)
    k = measures.weighted_neighbours(bank.labels)
    assert 20 < k < 30  # of the 300 images ten classes share
    assert metrics["knn_acc"] == measures.knn_accuracy(near, clean.labels, k=20)
    assert metrics["knn_weighted_acc"] == measures.weighted_knn_accuracy(near, clean.labels, k=k)
    probe = linear_probe_accuracy(clean.h, clean.labels, bank.h, bank.labels, None)
    assert metrics["linear_probe_acc"] == pytest.approx(probe, abs=1e-12)
    zs = e.embedding(clean.h), e.embedding(bank.h)
    probe = linear_probe_accuracy(zs[0], clean.labels, zs[1], bank.labels, None)
    assert metrics["z_linear_probe_acc"] == pytest.approx(probe, abs=1e-12)
    assert metrics["test_ece_floor"] == measures.calibration_floor(clean.logits.softmax(1).amax(1))
    chosen = stratified_choice(digits.test.labels, 100)
    views = [e.outputs("test", chosen, TRANSFORMS, view=view, reference=True) for view in (0, 1)]
    both = [view.logits for view in views]
    assert metrics["view_agreement"] == measures.view_agreement(*both)
    assert metrics["view_kappa"] == measures.view_kappa(*both)
    assert metrics["view_both_right"] == measures.view_both_right(
        *both, torch.from_numpy(digits.test.labels[chosen])
    )
    assert metrics["view_cosine"] == pytest.approx(measures.view_cosine(*(view.h for view in views)))
    shown = e.outputs("test", chosen, None)
    assert metrics["effective_rank"] == pytest.approx(measures.effective_rank(shown.h), rel=1e-4)
    assert metrics["silhouette"] == pytest.approx(measures.silhouette(shown.h, shown.labels), rel=1e-4)
    z = e.embedding(shown.h)
    assert metrics["z_effective_rank"] == pytest.approx(measures.effective_rank(z), rel=1e-4)


def test_validation_images_choose_the_strength_of_a_probe(
    evaluator: MakeEvaluator, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes_module, "BANK_IMAGES", 20)
    e, train, validation = evaluator(val_fraction=0.1), np.arange(300), np.arange(300, 700)
    metrics, _ = evaluate(e, train, validation)
    clean = e.outputs("test", EVERY, None)
    bank, held_out = (
        e.outputs("train", of[stratified_choice(digits.train.labels[of], 20)], None)
        for of in (train, validation)
    )
    fixed = {}
    for name, features in {"linear_probe_acc": lambda h: h, "z_linear_probe_acc": e.embedding}.items():
        of_bank, of_test, chosen = (features(outputs.h) for outputs in (bank, clean, held_out))
        arguments = of_test, clean.labels, of_bank, bank.labels
        expected = linear_probe_accuracy(*arguments, (chosen, held_out.labels))
        assert metrics[name] == pytest.approx(expected, abs=1e-12)
        fixed[name] = linear_probe_accuracy(*arguments, None)
    assert any(value != metrics[name] for name, value in fixed.items())  # the choice shows


def test_large_images_are_evaluated_in_smaller_batches(
    evaluator: MakeEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    e, sizes = evaluator(), []
    monkeypatch.setattr(evaluator_module, "BATCH_PIXELS", 55 * 32 * 32)
    before = e.net.features
    monkeypatch.setattr(e.net, "features", lambda x: (sizes.append(len(x)), before(x))[1])
    e.outputs("test", EVERY, None)
    assert sizes == [55] * 9 + [5]


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def test_statistics_of_batch_norm_are_re_estimated_on_clean_training_images(
    evaluator: MakeEvaluator, digits: data.Dataset
) -> None:
    e, train = evaluator(), np.arange(1297)
    with e.clean_statistics(train):
        expected = e.outputs("test", EVERY, None)
    with torch.no_grad():
        for norm in norms(e.net):  # statistics that fit nothing, as of a training on another kind of image
            norm.running_mean += 3
            norm.running_var *= 9
    spoilt = {name: value.clone() for name, value in e.net.state_dict().items()}
    assert (e.outputs("test", EVERY, None).h - expected.h).abs().max() > 0.1
    with e.clean_statistics(train):
        torch.testing.assert_close(e.outputs("test", EVERY, None).h, expected.h)
        # The first layer's statistics are those of its input, over all images but the incomplete batch.
        first = e.net.backbone[0]
        x = torch.from_numpy(digits.train.images[train] / 255)
        x = (x - torch.tensor(digits.mean).view(3, 1, 1)) / torch.tensor(digits.std).view(3, 1, 1)
        with torch.no_grad():
            values = first(x.float()).transpose(0, 1).flatten(1)
        torch.testing.assert_close(norms(e.net)[0].running_mean, values.mean(1), rtol=0.1, atol=0.02)
        torch.testing.assert_close(norms(e.net)[0].running_var, values.var(1), rtol=0.1, atol=0.02)
    assert all(torch.equal(value, spoilt[name]) for name, value in e.net.state_dict().items())
    assert all(norm.momentum == 0.1 for norm in norms(e.net))


def test_re_estimated_accuracy_is_a_metric(evaluator: MakeEvaluator) -> None:
    e = evaluator()
    with torch.no_grad():
        for norm in norms(e.net):
            norm.running_mean += 3
    metrics, _ = evaluate(e, np.arange(1297), np.arange(0))
    with e.clean_statistics(np.arange(1297)):
        assert metrics["test_acc_bnrecal"] == e.outputs("test", EVERY, None).accuracy
    assert metrics["test_acc_bnrecal"] != metrics["test_acc"]


def test_without_batch_norm_there_is_nothing_to_re_estimate(tiny: Tiny, digits: data.Dataset) -> None:
    net = SiameseNet(
        nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(3072, 8)), nn.Linear(8, 10), nn.Identity()
    )
    e = Evaluator(config=tiny(method="ce"), net=net, dataset=digits, device=torch.device("cpu"))
    with e.clean_statistics(np.arange(100)):
        inside = e.outputs("test", EVERY, None)
    assert torch.equal(inside.logits, e.outputs("test", EVERY, None).logits)


def test_dropout_stays_off_while_statistics_are_re_estimated(
    evaluator: MakeEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = evaluator()
    monkeypatch.setattr(e.net, "backbone", nn.Sequential(nn.Dropout(0.9), *e.net.backbone))
    with e.clean_statistics(np.arange(1000)):
        first = [norm.running_var.clone() for norm in norms(e.net)]
    with e.clean_statistics(np.arange(1000)):
        assert all(torch.equal(a, norm.running_var) for a, norm in zip(first, norms(e.net), strict=True))


def test_order_of_the_dataset_does_not_matter_to_the_statistics(
    evaluator: MakeEvaluator, digits: data.Dataset
) -> None:
    """A folder of images goes class by class: batches of one class would have too small a variance."""
    e = evaluator()
    by_class = np.argsort(digits.train.labels, kind="stable")[:1000]
    mixed = np.random.RandomState(1).permutation(by_class)
    variances = []
    for order in (by_class, mixed):
        with e.clean_statistics(order):
            variances.append(torch.cat([norm.running_var.clone() for norm in norms(e.net)]))
    torch.testing.assert_close(*variances, rtol=0.05, atol=1e-3)


def test_statistics_are_of_batches_as_large_as_those_of_training(
    evaluator: MakeEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    e, sizes = evaluator(batch_size=30), []
    before = e.net.features
    monkeypatch.setattr(e.net, "features", lambda x: (sizes.append(len(x)), before(x))[1])
    with e.clean_statistics(np.arange(100)):
        assert sizes == [30] * 3
    with e.clean_statistics(np.arange(20)):
        assert sizes[3:] == [20]


@pytest.mark.parametrize("part", ["backbone", "classifier"])
def test_outputs_that_are_not_finite_end_a_trial(evaluator: MakeEvaluator, part: str) -> None:
    e = evaluator()
    with torch.no_grad():
        for weight in getattr(e.net, part).parameters():
            weight.fill_(3e38)  # finite, what it gives is not
    with pytest.raises(NonFiniteOutputs, match=r"^features or scores of train images are not finite$"):
        evaluate(e, np.arange(100), np.arange(0))


def test_a_metric_alone_takes_no_more_passes_than_it_needs(
    evaluator: MakeEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    every, _ = evaluate(e := evaluator(), np.arange(100), np.arange(0))
    passes = []
    real = Evaluator.outputs
    monkeypatch.setattr(
        Evaluator,
        "outputs",
        lambda self, split, *a, **o: (passes.append(split), real(self, split, *a, **o))[1],
    )
    of = Passes(evaluator=e, train=np.arange(100), validation=np.arange(0))
    assert measure(of, ["silhouette", "test_ce"]) == {name: every[name] for name in ("silhouette", "test_ce")}
    assert passes == ["test"]
    assert measure(of, ["knn_acc", "val_acc"]) == {"knn_acc": every["knn_acc"]}  # no image is held out
    assert passes == ["test", "train"]
