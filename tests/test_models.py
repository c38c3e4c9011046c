"""Backbones and the network around them."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from trainables.backbones import why_unsupported
from trainables.catalogue import BACKBONES
from trainables.models import backbone, build
from trainables.trial import TrialConfig

Tiny = Callable[..., TrialConfig]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("backbone", [*BACKBONES, "mobilenet_v3_small"])
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


# What a layer costs is counted where it is run: multiply-adds of convolutions and linear layers.
def multiply_adds(net: nn.Module, size: int) -> int:
    total = 0

    def count_layer(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            assert layer.groups == 1
            total += output.numel() * layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
        elif isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features

    with torch.no_grad(), nn.modules.module.register_module_forward_hook(count_layer):
        net.eval()(torch.zeros(1, 3, size, size))
    return total


def test_stems() -> None:
    """The thesis's ResNet-18 keeps the stem for large images; that for CIFAR-10 costs 15 times as much."""
    assert multiply_adds(backbone("resnet18", 10), 32) == pytest.approx(37e6, rel=0.03)
    assert multiply_adds(backbone("resnet18_cifar", 10), 32) == pytest.approx(556e6, rel=0.01)
    stem = backbone("resnet18_cifar", 10).conv1
    assert (stem.kernel_size, stem.stride, stem.padding, stem.bias) == ((3, 3), (1, 1), (1, 1), None)
    assert stem.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)  # He's, by outputs


def test_vgg16_is_torchvisions() -> None:
    with torch.device("meta"):  # 134 million weights need not be drawn to be counted
        plain, normed = (backbone(name, 2048) for name in ("vgg16", "vgg16_bn"))
    # 134,260,544 weights before its last layer (Simonyan & Zisserman 2014, configuration D).
    assert count(plain) == 134_260_544 + 4096 * 2048 + 2048
    kinds = [{type(module) for module in net.modules()} for net in (plain, normed)]
    assert all(nn.Dropout in kind for kind in kinds)
    assert [nn.BatchNorm2d in kind for kind in kinds] == [False, True]


@pytest.mark.parametrize(
    ("name", "size", "text"),
    [
        *[(name, 32, None) for name in (*BACKBONES, "efficientnet_b0", "convnext_tiny", "densenet121")],
        ("resnet18", 8, None),
        (
            "resnet81",
            32,
            "backbone: got 'resnet81' (did you mean 'resnet18'?); allowed: convnet, resnet18, resnet18_cifar,"
            " vgg16, vgg16_bn or a classification model of torchvision",
        ),
        ("fcn_resnet50", 32, "backbone: got 'fcn_resnet50' (did you mean"),  # segments, does not classify
        ("vgg16", 16, "backbone: vgg16 cannot run on images of 16 x 16 pixels (Given input size: "),
        ("vit_b_16", 32, "backbone: vit_b_16 cannot run on images of 32 x 32 pixels (Wrong image height! "),
        ("vit_b_16", 224, None),
        ("regnet_y_400mf", 32, None),  # cannot be built on the meta device
        ("googlenet", 96, "backbone: googlenet gives more than one vector of features an image in"),
    ],
)
def test_what_cannot_be_trained_is_known_without_training(name: str, size: int, text: str | None) -> None:
    said = why_unsupported(name, 16, size)
    assert said is None if text is None else str(said).startswith(text)


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
