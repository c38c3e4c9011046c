"""Backbones are tried before anything starts."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainables import backbones
from trainables.catalogue import BACKBONES
from trainables.trial import TrialConfig

Tiny = Callable[..., TrialConfig]


def test_built_in_backbones_need_no_trial(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a process is started")

    monkeypatch.setattr(subprocess, "run", refuse)
    for dataset in ("digits", "cifar10", "stl10"):
        backbones.check([tiny(backbone=name, dataset=dataset) for name in BACKBONES], tmp_path)
    with pytest.raises(AssertionError, match="a process is started"):
        backbones.check([tiny(backbone="resnet34")], tmp_path)


def test_all_that_cannot_run_are_named_at_once(tiny: Tiny, tmp_path: Path) -> None:
    names = ("resnet18", "resnet_18", "alexnet", "resnet34")
    with pytest.raises(ValueError, match=r"^backbone: got 'resnet_18'") as error:
        backbones.check(
            [tiny(backbone=name, dataset=dataset) for dataset in ("digits", "cifar10") for name in names],
            tmp_path,
        )
    first, second = str(error.value).split("; backbone: ")
    assert first.startswith("backbone: got 'resnet_18' (did you mean 'resnet18'?); allowed: convnet, ")
    assert second.startswith("alexnet cannot run on images of 32 x 32 pixels (")
    assert "resnet34" not in second


def test_a_pytorch_that_does_not_start_is_one_line(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.backbones.sys.executable", "/bin/false")
    with pytest.raises(ValueError, match=r"^backbone: resnet34 cannot be tried \(no reason given\)$"):
        backbones.check([tiny(backbone="resnet34")], tmp_path)


def test_images_may_be_too_small_for_a_built_in_one(tiny: Tiny, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            path = tmp_path / f"small/{split}/{name}/0.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(path)
    tried = [("small", "resnet18"), ("small", "vgg16"), ("small@32", "vgg16")]
    with pytest.raises(ValueError, match=r"^backbone: vgg16 cannot run on images of 16 x 16 pixels") as error:
        backbones.check([tiny(dataset=f"folder:{name}", backbone=one) for name, one in tried], tmp_path)
    assert "backbone: " not in str(error.value).removeprefix("backbone: ")  # no other is named
