"""Training a trial, on digits with a tiny network."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import stl10_archive, tell_torchvision
from torch import Tensor
from torchvision.datasets import STL10

from trainables import data
from trainables import step as step_module
from trainables import train as train_module
from trainables.data import Dataset
from trainables.datasets.splits import UNLABELLED, training_indices
from trainables.losses import Loss, barlow_twins_loss, siamese_loss
from trainables.methods import barlow_twins, term_of
from trainables.methods.term import Branches
from trainables.models import SiameseNet, build
from trainables.storage.bundles import TrialResult, from_parquet
from trainables.train import NonFiniteLoss, train
from trainables.trial import TrialConfig

Tiny = Callable[..., TrialConfig]
Trained = Callable[..., TrialResult]
Seen = Callable[..., list[list[Tensor]]]

METHODS = [{"method": "ce"}, {"gamma": 0}, {"gamma": 0.01}]
NAMES = ["ce", "siamese-0", "siamese-0.01"]
each_method = pytest.mark.parametrize("method", METHODS, ids=NAMES)


def untimed(values: Mapping[str, float]) -> dict[str, float]:
    """Without what the clock decides."""
    return {
        k: v for k, v in values.items() if "seconds" not in k and k not in ("timestamp", "images_per_second")
    }


@pytest.fixture
def nets(monkeypatch: pytest.MonkeyPatch) -> list[SiameseNet]:
    """The networks that are built from here on."""
    built = []

    def remembering(config: TrialConfig, num_classes: int) -> SiameseNet:
        built.append(build(config, num_classes))
        return built[-1]

    monkeypatch.setattr(train_module, "build", remembering)
    return built


@pytest.fixture
def seen(nets: list[SiameseNet], tiny: Tiny, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What the network is shown while `tiny(**changes)` is trained: by step, the views (B, 3, S, S)."""
    # The final evaluation takes four times as long as such a training, and is not looked at.
    monkeypatch.setattr(train_module, "evaluate", lambda *args: ({}, {}))

    def views(**changes: Any) -> list[list[Tensor]]:
        shown = []

        def note(module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
            if module is nets[-1].backbone and module.training:
                shown.append(inputs[0])

        with torch.nn.modules.module.register_module_forward_pre_hook(note):
            train(tiny(**changes), data_dir)
        count = 1 if changes.get("method") == "ce" else 2
        return [list(batch.chunk(count)) for batch in shown]

    return views


@pytest.mark.parametrize(
    "changes", [*METHODS, {"precision": "bf16", "views": "asymmetric"}], ids=[*NAMES, "bf16"]
)
def test_same_config_gives_the_same_bits_whatever_ran_before(
    changes: dict[str, Any], trained: Trained, tiny: Tiny, data_dir: Path
) -> None:
    first = trained(**changes)
    torch.manual_seed(123)
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    second = train(tiny(**changes), data_dir)
    assert torch.get_num_threads() == 1
    assert untimed(second.metrics) == untimed(first.metrics)
    assert [*map(untimed, second.history)] == [*map(untimed, first.history)]
    for name in ("predictions.npz", "embeddings.npz", "views.npz"):
        assert second.artifacts[name] == first.artifacts[name]


def test_another_seed_is_another_replicate(trained: Trained) -> None:
    one, other = trained(seed=0).history, trained(seed=1).history
    assert all(a["train/loss"] != b["train/loss"] for a, b in zip(one, other, strict=True))


@each_method
def test_history(method: dict[str, Any], tiny: Tiny, data_dir: Path) -> None:
    config, told = tiny(**method), []
    result = train(config, data_dir, on_epoch=told.append)
    assert [*result.history] == told == from_parquet(result.artifacts["history.parquet"])
    assert [row["epoch"] for row in result.history] == [1, 2]
    names = {"epoch", "timestamp", "train/loss", "train/ce", "train/acc", "val/acc", "lr"}
    names |= {"epoch_seconds", "images_per_second"} | ({"train/bt"} if config.gamma else set())
    for row in result.history:
        assert row.keys() == names
        assert row["lr"] == config.lr
        assert 0 <= row["train/acc"] <= 1
        assert 0 <= row["val/acc"] <= 1
        loss = row["train/ce"] + (config.gamma or 0) * row.get("train/bt", 0)
        assert row["train/loss"] == pytest.approx(loss, rel=1e-6)
        # Means over images, of 10 classes that a fresh network cannot tell apart.
        views = 1 if config.method == "ce" else 2
        assert row["train/ce"] == pytest.approx(views * math.log(10), rel=0.1)
    assert result.history[-1]["val/acc"] == result.metrics["val_acc"]


@each_method
def test_final_metrics(method: dict[str, Any], trained: Trained) -> None:
    metrics = trained(**method).metrics
    accuracies = {"train_acc", "train_aug_acc", "test_acc", "test_aug_acc", "test_augcrop_acc"}
    accuracies |= {"test_augfull_acc", "test_acc_bnrecal", "val_acc"}
    accuracies |= {"linear_probe_acc", "knn_weighted_acc", "knn_acc", "view_both_right"}
    fractions = accuracies | {"test_ece", "test_ece_floor", "val_ece", "view_agreement"}
    others = {"test_ce", "view_kappa", "view_cosine", "effective_rank", "silhouette"}
    others |= {"z_effective_rank", "z_linear_probe_acc"} if method.get("gamma") or not method else set()
    assert untimed(metrics).keys() == fractions | others
    assert {"train_seconds", "evaluate_seconds"} <= metrics.keys()
    for name, value in untimed(metrics).items():
        assert math.isfinite(value), name
        assert name not in fractions or 0 <= value <= 1, name


def test_without_a_validation_split_nothing_is_said_of_it(trained: Trained) -> None:
    result = trained(val_fraction=0)
    assert "val_acc" not in result.metrics
    assert all("val/acc" not in row for row in result.history)


@pytest.fixture
def clean(tiny: Tiny, digits: Dataset) -> tuple[Tensor, Tensor]:
    """The 50 training images, normalised, and their labels."""
    indices = training_indices(tiny(), digits.train.labels).train
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (digits.mean, digits.std))
    images = torch.from_numpy(digits.train.images[indices] / 255).float()
    return (images - mean) / std, torch.from_numpy(digits.train.labels[indices])


def which(shown: Tensor, images: Tensor) -> Tensor:
    """Which of the images each of the shown ones is; fewer numbers where one is none of them."""
    distance = (shown[:, None] - images[None]).abs().flatten(2).amax(2)
    return (distance < 1e-5).nonzero()[:, 1]


def test_each_epoch_shows_every_training_image_once_in_a_new_order(
    seen: Seen, clean: tuple[Tensor, Tensor]
) -> None:
    steps = [which(view, clean[0]) for (view,) in seen(augmentations=(), method="ce")]
    assert [len(step) for step in steps] == [25] * 4
    epochs = [torch.cat(steps[:2]), torch.cat(steps[2:])]
    assert [epoch.sort().values.tolist() for epoch in epochs] == [[*range(50)]] * 2
    assert not torch.equal(*epochs)


def test_every_view_of_every_step_has_draws_of_its_own(seen: Seen, clean: tuple[Tensor, Tensor]) -> None:
    images, _ = clean
    shown, flips = [], set()
    for views in seen(augmentations=("hflip",)):
        numbers = [which(view, torch.cat([images, images.flip(-1)])) for view in views]
        shown.append([(number % 50).tolist() for number in numbers])
        flips |= {tuple((number >= 50).tolist()) for number in numbers}
    assert len(shown) == 4
    assert all(view1 == view2 for view1, view2 in shown)
    assert len(flips) == 8


@pytest.mark.parametrize(("gamma", "center"), [(0.5, False), (0.5, True), (0.0, True)])
def test_views_meet_classifier_and_projector_as_if_one_after_the_other(
    tiny: Tiny, gamma: float, center: bool
) -> None:
    """In double precision: loss, logits and all gradients."""
    config = tiny(method="siamese", gamma=gamma, center=center)
    net = build(config, num_classes=10).double().train()
    x1, x2 = torch.rand(2, 25, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(25) % 10

    def gradients(loss: Tensor) -> list[Tensor]:
        wanted = [parameter for parameter in net.parameters() if parameter.requires_grad]
        found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        return list(found)

    loss, logits = step_module.forward(
        config, term_of(config), net, views=[x1, x2], targets=targets, mixing=None
    )
    h1, h2 = net.features(x1), net.features(x2)
    y1, y2 = net.logits(h1), net.logits(h2)
    z = (net.embedding(h1), net.embedding(h2))
    term = barlow_twins_loss(*z, lambd=config.lambd, center=center) if gamma else None
    expected = siamese_loss(y1, y2, targets, term, gamma=gamma)
    torch.testing.assert_close(logits, [y1, y2], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(loss.total, expected.total, rtol=1e-10, atol=0)
    for ours, theirs in zip(gradients(loss.total), gradients(expected.total), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_training_is_sgd_on_the_loss(
    seen: Seen, nets: list[SiameseNet], clean: tuple[Tensor, Tensor], tiny: Tiny
) -> None:
    """The same steps in plain PyTorch."""
    changes: dict[str, Any] = {
        "augmentations": (),
        "gamma": 0.5,
        "lambd": 0.3,
        "center": False,
        "momentum": 0.8,
        "weight_decay": 0.1,
    }
    steps = seen(**changes)
    images, labels = clean
    net = build(tiny(**changes), num_classes=10).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.8, weight_decay=0.1)
    for views in steps:
        targets = labels[which(views[0], images)]
        # As one batch (the test before holds that against one view after the other): products of other shapes
        # are rounded otherwise, and a few steps at this rate make 1e-5 of that.
        h = net.features_of_views(views)
        ce1, ce2 = (torch.nn.functional.cross_entropy(y, targets) for y in net.classifier(h).chunk(2))
        bt = barlow_twins_loss(*net.projector(h).chunk(2), lambd=0.3, center=False)
        optimizer.zero_grad()
        (ce1 + ce2 + 0.5 * bt).backward()
        optimizer.step()
    expected = net.state_dict()
    for name, weights in nets[0].state_dict().items():
        torch.testing.assert_close(weights, expected[name], rtol=1e-4, atol=1e-6)


def test_asymmetric_views_are_augmented_by_their_own_policies(seen: Seen) -> None:
    steps = seen(augmentations=("solarize",), views="asymmetric")
    black = min(view.min().item() for views in steps for view in views)
    white = max(view.max().item() for views in steps for view in views)
    for view1, view2 in steps:  # digits are white on black; solarized, nothing is white
        assert view1.amax((1, 2, 3)).max() < (black + white) / 2
        assert view2.amax((1, 2, 3)).max() == white


def test_arms_of_a_seed_are_shown_the_same_images(seen: Seen) -> None:
    first = [step[0] for step in seen()]
    for changes in ({"gamma": 0}, {"gamma": 0.001}, {"method": "ce"}):
        assert all(torch.equal(a, step[0]) for a, step in zip(first, seen(**changes), strict=True))
    assert not any(torch.equal(a, step[0]) for a, step in zip(first, seen(seed=1), strict=True))


@each_method
def test_projector_is_trained_and_run_only_for_the_barlow_twins_term(
    method: dict[str, Any], tiny: Tiny, data_dir: Path, nets: list[SiameseNet]
) -> None:
    config = tiny(**method)
    train(config, data_dir)
    before = build(config, num_classes=10).projector
    pairs = zip(nets[0].projector.parameters(), before.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs) == (not config.gamma)  # not even weight decay touches it

    def refuse(module: torch.nn.Module, inputs: Any) -> None:
        assert module is not nets[-1].projector, "the projector runs"

    with torch.nn.modules.module.register_module_forward_pre_hook(refuse):
        if config.gamma:
            with pytest.raises(AssertionError, match="the projector runs"):
                train(config, data_dir)
        else:
            train(config, data_dir)


def test_siamese_0_on_identical_views_is_ce_at_twice_the_rate_and_half_the_decay(trained: Trained) -> None:
    """To rounding, which differs between processors: two views meet the heads as one batch."""
    same = {"augmentations": (), "epochs": 3}
    siamese = trained(gamma=0, lr=0.05, weight_decay=1e-2, **same).history
    ce = trained(method="ce", lr=0.1, weight_decay=0.5e-2, **same).history
    # A rate that is wrong by 1 %, or a decay that is wrong by 20 %, makes more than three times this.
    assert [row["train/ce"] for row in siamese] == pytest.approx(
        [2 * row["train/ce"] for row in ce], rel=1e-4
    )
    assert [row["train/acc"] for row in siamese] == pytest.approx([row["train/acc"] for row in ce], abs=0.021)


def test_cosine_falls_step_by_step(trained: Trained) -> None:
    # Two epochs of two steps: a row tells the rate of the epoch's last step, 1 and 3 of 4.
    rates = [row["lr"] for row in trained(lr_schedule="cosine").history]
    assert rates == pytest.approx(
        [0.05 * (1 + math.cos(math.pi / 4)), 0.05 * (1 + math.cos(3 * math.pi / 4))]
    )
    losses, constant = (
        [row["train/loss"] for row in trained(lr_schedule=s).history] for s in ("cosine", "constant")
    )
    assert losses[1] != constant[1]


def test_rate_of_the_first_step_is_the_rate_of_the_config(trained: Trained) -> None:
    assert trained(lr_schedule="cosine", batch_size=50, epochs=1).history[0]["lr"] == 0.1


def test_smaller_last_batch_is_dropped(trained: Trained) -> None:
    # 50 images: one batch of 49, so one step an epoch, the last of them at half the rate.
    assert [row["lr"] for row in trained(lr_schedule="cosine", batch_size=49).history] == [0.1, 0.05]


def test_trained_in_bf16_it_stays_near_fp32(trained: Trained) -> None:
    rows = [trained(precision=precision).history[0] for precision in ("fp32", "bf16")]
    for name in ("train/ce", "train/bt"):
        assert rows[0][name] != rows[1][name]
        assert rows[0][name] == pytest.approx(rows[1][name], rel=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 1e30}, r"train/ce is (nan|inf) in epoch 1 of 2"),
        ({"lr": 1e30, "method": "ce"}, r"train/ce is (nan|inf) in epoch 1 of 2"),
        ({"lr": 1e30, "epochs": 3, "batch_size": 50}, r"train/ce is (nan|inf) in epoch 2 of 3"),
        ({"gamma": 1e38, "batch_size": 50, "lr": 1e-30}, r"train/loss is inf in epoch 1 of 2"),
    ],
)
def test_non_finite_loss_is_told_with_term_and_epoch(
    changes: dict[str, Any], message: str, tiny: Tiny, data_dir: Path
) -> None:
    with pytest.raises(NonFiniteLoss, match=f"^{message}$"):
        train(tiny(**changes), data_dir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 51}, "batch_size: got 51; allowed: at most the 50 training images"),
        ({"train_size": 1297}, "train_size: got 1297; allowed: at most "),
    ],
)
def test_config_that_does_not_fit_the_data_is_refused(
    changes: dict[str, Any], message: str, tiny: Tiny, data_dir: Path
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        train(tiny(**changes), data_dir)


def test_weights_that_diverge_in_the_last_step_end_the_trial_too(tiny: Tiny, data_dir: Path) -> None:
    """One step in all: its loss is finite, what it leaves is not."""
    with pytest.raises(NonFiniteLoss, match=r"^weights are not finite after epoch 1 of 1$"):
        train(tiny(lr=1e38, weight_decay=1e3, epochs=1, batch_size=50), data_dir)


@pytest.fixture(scope="module")
def stl10_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with STL-10, from an archive in its format: 40 labelled, 40 unlabelled, 20 for test."""
    folder = tmp_path_factory.mktemp("stl10")
    images = np.random.RandomState(0).randint(0, 256, (100, 3, 96, 96), dtype=np.uint8)
    folds = np.stack([np.roll(np.arange(40), 4 * fold)[:20] for fold in range(10)])
    content, files = stl10_archive(images[:40], images[40:80], images[80:], folds)
    (folder / STL10.filename).write_bytes(content)
    with pytest.MonkeyPatch.context() as monkeypatch:
        tell_torchvision(monkeypatch, STL10, content, files)
        data.prepare("stl10", folder)
    return folder


SEMI = {"dataset": "stl10", "train_size": None, "val_fraction": 0, "augmentations": (), "epochs": 1}


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every loss that is computed from here on."""
    calls: list[dict[str, Any]] = []

    def of_term(branches: Branches, config: TrialConfig) -> Tensor:
        calls.append({"branches": branches, "config": config})
        return barlow_twins.TERM.loss(branches, config)

    def of_batch(*arguments: Any, **weights: Any) -> Loss:
        calls[-1]["loss"] = siamese_loss(*arguments, **weights)
        return calls[-1]["loss"]

    term = dataclasses.replace(barlow_twins.TERM, loss=of_term)
    monkeypatch.setattr(step_module, "term_of", lambda config: term)
    monkeypatch.setattr(step_module, "siamese_loss", of_batch)
    return calls


def test_labelled_and_unlabelled_images_are_shuffled_together(
    tiny: Tiny, stl10_dir: Path, losses: list[dict[str, Any]]
) -> None:
    train(tiny(**SEMI, unlabeled_size=40, batch_size=20), stl10_dir)
    targets = [call["branches"].targets for call in losses]
    assert [len(batch) for batch in targets] == [20] * 4
    every = torch.cat(targets)
    assert (every == UNLABELLED).sum() == 40
    assert all(0 < (batch == UNLABELLED).sum() < 20 for batch in targets)
    assert sorted(every[every != UNLABELLED].tolist()) == sorted(
        data.load("stl10", stl10_dir).train.labels[:40].tolist()
    )


def test_a_fold_is_all_that_is_trained_on(
    tiny: Tiny, stl10_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on, straight = [], train_module._training_set

    def remember(dataset: Dataset, indices: np.ndarray, device: torch.device) -> Any:
        trained_on.append(indices.tolist())
        return straight(dataset, indices, device)

    monkeypatch.setattr(train_module, "_training_set", remember)
    for seed in (3, 13):
        train(tiny(**{**SEMI, "method": "ce"}, fold="seed", seed=seed, batch_size=10), stl10_dir)
    assert trained_on == [sorted(np.roll(np.arange(40), 12)[:20])] * 2


def test_cross_entropy_sees_labelled_images_alone_and_barlow_twins_all(
    tiny: Tiny, stl10_dir: Path, losses: list[dict[str, Any]]
) -> None:
    train(tiny(**SEMI, unlabeled_size=40, batch_size=20), stl10_dir)
    for call in losses:
        labelled = call["branches"].targets != UNLABELLED
        ce = sum(
            torch.nn.functional.cross_entropy(logits[labelled], call["branches"].targets[labelled])
            for logits in call["branches"].logits
        )
        torch.testing.assert_close(call["loss"].ce, ce)
        z, config = call["branches"].z, call["config"]
        assert all(len(embedding) == 20 for embedding in z)
        bt = barlow_twins_loss(*z, lambd=config.lambd, center=config.center)
        torch.testing.assert_close(call["loss"].term, bt)


def test_images_and_labels_belong_together_also_with_unlabelled_ones(
    tiny: Tiny, stl10_dir: Path, monkeypatch: pytest.MonkeyPatch, losses: list[dict[str, Any]]
) -> None:
    dataset, shown = data.load("stl10", stl10_dir), []
    before = step_module.augment
    monkeypatch.setattr(step_module, "augment", lambda x, *rest: (shown.append(x), before(x, *rest))[1])
    train(tiny(**SEMI, unlabeled_size=30, batch_size=10), stl10_dir)
    label_of = {
        image.tobytes(): int(label)
        for image, label in zip(dataset.train.images, dataset.train.labels, strict=True)
    }
    assert len(label_of) == 80  # no two images are alike
    for images, call in zip(shown[::2], losses, strict=True):
        assert [label_of[image.numpy().tobytes()] for image in images] == call["branches"].targets.tolist()
    seen = [image.numpy().tobytes() for images in shown[::2] for image in images]
    assert len(set(seen)) == len(seen) == 70


def test_a_batch_of_unlabelled_images_alone_trains_on(
    tiny: Tiny, stl10_dir: Path, losses: list[dict[str, Any]]
) -> None:
    """Ten labelled images among fifty, in batches of two: most batches have none."""
    changes = {**SEMI, "train_size": 10, "unlabeled_size": 40, "batch_size": 2, "lr": 0.001}
    result = train(tiny(**changes), stl10_dir)
    without = [call for call in losses if (call["branches"].targets == UNLABELLED).all()]
    assert len(without) >= 10
    assert all(call["loss"].ce == 0 and call["loss"].total.isfinite() for call in without)
    assert all(call["loss"].term > 0 for call in without)
    assert all(math.isfinite(value) for value in untimed(result.history[0]).values())


def test_accuracy_of_an_epoch_is_of_labelled_images(
    tiny: Tiny, stl10_dir: Path, losses: list[dict[str, Any]]
) -> None:
    result = train(tiny(**{**SEMI, "epochs": 5}, unlabeled_size=40, batch_size=20), stl10_dir)
    last = [(logits, call["branches"].targets) for call in losses[-4:] for logits in call["branches"].logits]
    right = sum(int((logits.argmax(1) == targets).sum()) for logits, targets in last)
    assert result.history[-1]["train/acc"] == pytest.approx(right / 80)  # of 40 images in two views
    assert right


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes", [*METHODS, {"precision": "bf16", "views": "asymmetric"}], ids=[*NAMES, "bf16"]
)
def test_on_a_gpu(changes: dict[str, Any], tiny: Tiny, data_dir: Path, trained: Trained) -> None:
    on_gpu, on_cpu = train(tiny(**changes), data_dir, device="cuda"), trained(**changes)
    assert on_gpu.metrics.keys() == on_cpu.metrics.keys()
    for row, expected in zip(on_gpu.history, on_cpu.history, strict=True):
        assert row["train/loss"] == pytest.approx(expected["train/loss"], rel=0.05)


def test_what_is_reported_is_measured_by_the_usual_kernels(
    tiny: Tiny, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[str, str]] = set()

    def watch(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            seen.add((name, torch.get_float32_matmul_precision()))
            return function(*arguments, **options)

        return watched

    for owner, name in (
        (step_module.Step, "run"),
        (train_module.Evaluator, "outputs"),
        (train_module, "evaluate"),
    ):
        monkeypatch.setattr(owner, name, watch(name, getattr(owner, name)))
    train(tiny(), data_dir, kernels="tf32")
    assert seen == {("run", "high"), ("outputs", "highest"), ("evaluate", "highest")}


def test_images_kept_on_a_device_are_the_same(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept on the device (the meta device stands for a GPU: it knows shapes alone) or fetched by batch."""
    indices, positions = np.arange(1290, 5, -1), torch.tensor([0, 7, 1284])
    fetch, labels = train_module._training_set(digits, indices, torch.device("cpu"))
    np.testing.assert_array_equal(fetch(positions).numpy(), digits.train.images[[1290, 1283, 6]])
    np.testing.assert_array_equal(labels.numpy(), digits.train.labels[indices])
    for limit in (2**31, 1000):
        monkeypatch.setattr(train_module, "RESIDENT_BYTES", limit)
        fetch, labels = train_module._training_set(digits, indices, torch.device("meta"))
        assert fetch(positions).shape == (3, 3, 32, 32)
        assert (fetch(positions).device.type, labels.device.type) == ("meta", "meta")


def test_without_unlabelled_images_nothing_else_changes(tiny: Tiny, stl10_dir: Path) -> None:
    """The labelled images are chosen alike, whether unlabelled ones lie beside them or not."""
    indices = [
        training_indices(
            tiny(**{**SEMI, "train_size": 20}, batch_size=10, unlabeled_size=size),
            data.load("stl10", stl10_dir).train.labels,
        ).train.tolist()
        for size in (0, 40)
    ]
    assert indices[0] == indices[1]
