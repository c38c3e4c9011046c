"""Backbones and the network around them."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from trainables.models import BACKBONES, build
from trainables.trial import BACKBONES as NAMES
from trainables.trial import TrialConfig

Tiny = Callable[..., TrialConfig]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_name_has_a_backbone() -> None:
    assert tuple(BACKBONES) == NAMES


@pytest.mark.parametrize("backbone", NAMES)
def test_shapes(tiny: Tiny, backbone: str) -> None:
    net = build(tiny(backbone=backbone, feature_dim=24, hidden_dim=20, embedding_dim=6), num_classes=7)
    net.eval()
    with torch.no_grad():
        h = net.features(torch.zeros(2, 3, 32, 32))
        assert h.shape == (2, 24)
        assert net.logits(h).shape == (2, 7)
        assert net.embedding(h).shape == (2, 6)


def test_the_networks_are_those_of_the_method(tiny: Tiny) -> None:
    defaults = TrialConfig(
        dataset="digits", backbone="resnet18", augmentations=(), method="siamese", gamma=0.1, seed=0
    )
    net = build(defaults, num_classes=10)
    # torchvision's ResNet-18 has 11,176,512 weights before its last layer.
    assert count(net.backbone) == 11_176_512 + 512 * 2048 + 2048
    assert count(net.classifier) == 2048 * 10 + 10
    assert count(net.projector) == (2048 * 2048 + 2048) + (2048 * 128 + 128)
    convnet = build(tiny(backbone="convnet", feature_dim=2048), num_classes=10)
    assert count(convnet.backbone) < 500_000


def test_arms_of_a_seed_start_from_equal_weights(tiny: Tiny) -> None:
    ce = build(tiny(method="ce", gamma=None), 10)
    siamese = build(tiny(gamma=0.5, embedding_dim=4), 10)
    for part in ("backbone", "classifier"):
        for p, q in zip(getattr(ce, part).parameters(), getattr(siamese, part).parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_seeds_start_from_different_weights(tiny: Tiny) -> None:
    first, second = build(tiny(seed=0), 10), build(tiny(seed=1), 10)
    assert not torch.equal(first.classifier.weight, second.classifier.weight)


def test_building_leaves_the_global_generator_alone(tiny: Tiny) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    build(tiny(), 10)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_both_heads_read_the_features(tiny: Tiny) -> None:
    net = build(tiny(), 10)
    h = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    hidden, _, last = net.projector
    torch.testing.assert_close(net.logits(h), h @ net.classifier.weight.T + net.classifier.bias)
    z = (h @ hidden.weight.T + hidden.bias).relu() @ last.weight.T + last.bias
    torch.testing.assert_close(net.embedding(h), z)
