"""Final metrics and artifacts."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainables import data
from trainables import evaluate as evaluate_module
from trainables.augment import normalise
from trainables.evaluate import Evaluator, Outputs, evaluate
from trainables.models import SiameseNet, build
from trainables.trial import TRANSFORMS, TrialConfig, TrialResult

Tiny = Callable[..., TrialConfig]
Trained = Callable[..., TrialResult]
MakeEvaluator = Callable[..., Evaluator]

EVERY = np.arange(500)
"""All test images."""


@pytest.fixture
def evaluator(tiny: Tiny, digits: data.Dataset) -> MakeEvaluator:
    """Evaluators of untrained networks that nevertheless tell images apart."""

    def make(**changes: Any) -> Evaluator:
        net = build(tiny(**changes), num_classes=10)
        with torch.no_grad():
            for start in range(0, 1000, 50):  # for the statistics of batch norm
                images = torch.from_numpy(digits.train.images[start : start + 50] / 255).float()
                net.features(normalise(images, digits.mean, digits.std))
        return Evaluator(config=tiny(**changes), net=net, dataset=digits, device=torch.device("cpu"))

    return make


@pytest.fixture
def seen(tiny: Tiny, digits: data.Dataset) -> Callable[..., Tensor]:
    """What a network would see: normalised pixels of test images, (N, 3 * S * S)."""

    def pixels(
        transforms: tuple[str, ...] | None, *, indices: data.Indices = EVERY, view: int = 0, **changes: Any
    ) -> Tensor:
        net = SiameseNet(nn.Flatten(), nn.Identity(), nn.Identity())
        looking = Evaluator(config=tiny(**changes), net=net, dataset=digits, device=torch.device("cpu"))
        return looking.outputs("test", indices, transforms, view=view).h

    return pixels


def arrays(result: TrialResult, name: str) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(result.artifacts[name])) as file:
        return dict(file)


def test_accuracy_is_the_share_predicted_right() -> None:
    logits = torch.tensor([[2.0, 1], [0, 3], [1, 0], [0, 1]])
    assert Outputs(h=logits, logits=logits, labels=torch.tensor([0, 1, 1, 1])).accuracy == 0.75


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


def test_subsets_share_their_draws(seen: Callable[..., Tensor]) -> None:
    flipped, both = seen(("hflip",)), seen(("hflip", "solarize"))
    alike = (flipped == both).all(1).float().mean().item()
    assert alike == pytest.approx(0.8, abs=0.06)  # the others are solarized
    assert torch.equal(seen(()), seen(None))


def test_views_of_an_image_differ(seen: Callable[..., Tensor]) -> None:
    assert (seen(TRANSFORMS) != seen(TRANSFORMS, view=1)).any(1).all()


def test_metrics_are_of_the_images_that_their_names_say(evaluator: MakeEvaluator) -> None:
    train, validation = np.arange(0, 1000), np.arange(1000, 1297)
    e = evaluator(augmentations=("hflip", "solarize"))
    metrics, _ = evaluate(e, train, validation)
    expected = {
        "train_acc": ("train", train, None),
        "train_aug_acc": ("train", train, ("hflip", "solarize")),
        "test_acc": ("test", EVERY, None),
        "test_aug_acc": ("test", EVERY, ("hflip", "solarize")),
        "test_augcrop_acc": ("test", EVERY, ("rrc", "hflip", "solarize")),
        "test_augfull_acc": ("test", EVERY, TRANSFORMS),
        "val_acc": ("train", validation, None),
    }
    assert len({metrics[name] for name in expected}) > 4  # few are alike by chance
    for name, of in expected.items():
        assert metrics[name] == e.outputs(*of).accuracy, name
    assert "val_acc" not in evaluate(e, train, np.arange(0))[0]


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
    e = evaluator()
    _, artifacts = evaluate(e, np.arange(50), np.arange(0))
    predictions = arrays(TrialResult(metrics={}, history=(), artifacts=artifacts), "predictions.npz")
    for suffix, transforms in (("", None), ("_aug", e.config.augmentations)):
        logits = e.outputs("test", EVERY, transforms).logits.double().numpy()
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_array_equal(predictions[f"predicted{suffix}"], shares.argmax(1))
        np.testing.assert_allclose(predictions[f"probability{suffix}"], shares.max(1), rtol=1e-5)


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
    monkeypatch.setattr(evaluate_module, "EMBEDDED_IMAGES", 100)
    e = evaluator()
    kept = e.kept("test", EVERY, e.outputs("test", EVERY, None))
    assert len(kept["test_h"]) == len(kept["test_z"]) == 100
    counts = np.bincount(digits.test.labels[kept["test_index"]])
    assert np.abs(counts - np.bincount(digits.test.labels) / 5).max() <= 1
