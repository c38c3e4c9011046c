"""The stem of a ResNet pools before its ReLU: the same numbers to the last bit."""

import pytest
import torch
from torch import nn
from torchvision.models import ResNet, resnet18
from torchvision.models.resnet import BasicBlock

from trainables.fast.pooling import pool_first
from trainables.models import backbone, build
from trainables.trial import TrialConfig


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_stem_is_pytorchs(precision: torch.dtype) -> None:
    """Windows without any positive number, and with equal ones, included."""
    torch.manual_seed(0)
    theirs, ours = (net.to(precision).train() for net in (resnet18(), pool_first(resnet18())))
    ours.load_state_dict(theirs.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    # Half of the maps are negative almost everywhere, and numbers repeat.
    assert type(ours.relu) is not type(theirs.relu)
    x = (torch.randn(4, 64, 16, 16) * 4).round() / 4
    x[:, ::2] -= 1.5
    found = []
    for net in (theirs, ours):
        maps = x.to(precision).requires_grad_()
        y = net.maxpool(net.relu(maps.clone()))  # which both change in place
        found += [(y, *torch.autograd.grad((y * torch.arange(8).to(precision)).sum(), maps))]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    assert (found[0][0] == 0).any()
    images = torch.randn(4, 3, 32, 32, dtype=precision)
    assert torch.equal(theirs(images), ours(images))


def test_networks_of_trials_pool_first() -> None:
    config = TrialConfig(dataset="digits", backbone="resnet18", augmentations=(), method="ce", seed=0)
    stem = build(config, 10).backbone
    assert isinstance(stem.relu, nn.Identity)
    assert [type(module) for module in stem.maxpool] == [nn.MaxPool2d, nn.ReLU]


class Own(ResNet):
    """Whose own forward pass may leave the pooling out."""


@pytest.mark.parametrize("name", ["vgg16_bn", "resnet18_cifar", "own"])
def test_other_networks_stay_as_they_are(name: str) -> None:
    net = Own(BasicBlock, [1, 1, 1, 1]) if name == "own" else backbone(name, 8)
    before = [type(module) for module in net.modules()]
    assert [type(module) for module in pool_first(net).modules()] == before
