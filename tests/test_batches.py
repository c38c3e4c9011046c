"""The sample of views that a trial keeps is what its first training step has seen."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables import train as train_module
from trainables.batches import SAMPLE_BYTES, VIEWS, sample_of_views
from trainables.data import Dataset
from trainables.train import train
from trainables.trial import TrialConfig

Tiny = Callable[..., TrialConfig]
ARMS: dict[str, dict[str, Any]] = {
    "ce": {"method": "ce"},
    "siamese": {},
    "asymmetric": {"views": "asymmetric", "second_view": "clean"},
    "fixmatch": {"method": "fixmatch", "gamma": 1.0},
}


def arrays(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize("changes", ARMS.values(), ids=ARMS)
def test_the_sample_is_what_the_network_saw_in_its_first_step(
    changes: dict[str, Any], tiny: Tiny, data_dir: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "evaluate", lambda *args: ({}, {}))
    steps: list[Tensor] = []

    def note(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Conv2d) and module.training and inputs[0].shape[1:] == (3, 32, 32):
            steps.append(inputs[0].detach().clone())

    with torch.nn.modules.module.register_module_forward_pre_hook(note):
        result = train(tiny(epochs=1, **changes), data_dir)
    kept = arrays(result.artifacts[VIEWS])
    names = [name for name in ("view1", "view2") if name in kept]
    assert names == (["view1"] if changes.get("method") == "ce" else ["view1", "view2"])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (digits.mean, digits.std))
    for name, view in zip(names, steps[0].chunk(len(names)), strict=True):
        seen = 255 * (view[:8] * std + mean)
        assert (torch.from_numpy(kept[name]) - seen).abs().max() < 0.501  # rounded to whole grey levels
    for original, label in zip(kept["original"], kept["labels"], strict=True):
        (place,) = np.flatnonzero((digits.train.images == original).all((1, 2, 3)))
        assert digits.train.labels[place] == label
    assert [name.decode() for name in kept["classes"]] == list(digits.classes)
    assert len(kept["original"]) == 8


def test_arms_of_a_seed_keep_the_same_images_and_first_views(tiny: Tiny) -> None:
    labels = torch.arange(50) % 10
    images = torch.randint(0, 256, (50, 3, 32, 32), dtype=torch.uint8)

    def sample(**changes: Any) -> dict[str, np.ndarray]:
        return arrays(sample_of_views(tiny(**changes), lambda batch: images[batch], labels, ["a"] * 10))

    one, same, other = sample(), sample(method="ce"), sample(seed=1)
    for name in ("original", "view1", "labels"):
        np.testing.assert_array_equal(one[name], same[name])
        assert not np.array_equal(one[name], other[name])
    assert not np.array_equal(one["view1"], one["view2"])
    np.testing.assert_array_equal(one["labels"], labels[_first(images, one)].numpy())


def _first(images: Tensor, kept: dict[str, np.ndarray]) -> list[int]:
    return [int((images == torch.from_numpy(x)).all(3).all(2).all(1).nonzero()) for x in kept["original"]]


@pytest.mark.parametrize(("size", "count", "side"), [(32, 8, 32), (48, 4, 48), (96, 4, 48), (224, 4, 48)])
def test_a_sample_stays_small_whatever_the_images(tiny: Tiny, size: int, count: int, side: int) -> None:
    images = torch.randint(0, 256, (6, 3, size, size), dtype=torch.uint8)
    config, names = tiny(batch_size=6, augmentations=()), [f"n{c:08}" for c in range(1000)]
    content = sample_of_views(config, lambda batch: images[batch], torch.arange(6), names)
    kept = arrays(content)
    assert kept["original"].shape == kept["view2"].shape == (min(count, 6), 3, side, side)
    assert sum(kept[name].nbytes for name in ("original", "view1", "view2")) <= SAMPLE_BYTES
    assert len(content) < SAMPLE_BYTES + 15_000  # with a thousand classes' names
    reduced = F.adaptive_avg_pool2d(images[kept["labels"]].double(), side)
    np.testing.assert_allclose(kept["view1"], reduced, atol=0.51)
    assert kept["classes"][999] == b"n00000999"


def test_names_of_any_alphabet_are_kept(tiny: Tiny) -> None:
    images = torch.zeros(25, 3, 8, 8, dtype=torch.uint8)
    names = ["猫", "Blåbär", ""]
    content = sample_of_views(tiny(), lambda batch: images[batch], torch.full((25,), -1), names)
    assert [name.decode() for name in arrays(content)["classes"]] == names
    assert (arrays(content)["labels"] == -1).all()
