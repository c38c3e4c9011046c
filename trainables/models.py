"""Backbones by name, and the Siamese network around one.

Shapes: B images, D = feature_dim, M = embedding_dim, K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainables.randomness import stream_seed
from trainables.trial import TrialConfig


class SiameseNet(nn.Module):
    """A backbone with a classifier and a projector, both of which read the features directly.

    The two branches of the thesis share their weights: this one network sees the views one after the
    other, so that batch norm meets one view at a time.
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module, projector: nn.Module) -> None:
        """Take the three parts as they are."""
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.projector = projector

    def features(self, x: Tensor) -> Tensor:
        """Features h, (B, D), of normalised images (B, 3, S, S)."""
        h: Tensor = self.backbone(x)
        return h

    def logits(self, h: Tensor) -> Tensor:
        """Class scores, (B, K), from features (B, D)."""
        logits: Tensor = self.classifier(h)
        return logits

    def embedding(self, h: Tensor) -> Tensor:
        """Embedding z, (B, M), from features (B, D)."""
        z: Tensor = self.projector(h)
        return z


def build(config: TrialConfig, num_classes: int) -> SiameseNet:
    """The network of a trial, with its initial weights.

    Each part draws its weights from a stream of its own, so that all arms of a seed start from the same
    backbone and classifier.
    """
    width, hidden = config.feature_dim, config.hidden_dim

    def part(name: str, make: Callable[[], nn.Module]) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(config.seed, f"weights of the {name}"))
            return make()

    net = SiameseNet(
        backbone=part("backbone", lambda: BACKBONES[config.backbone](width)),
        classifier=part("classifier", lambda: nn.Linear(width, num_classes)),
        projector=part(
            "projector",
            lambda: nn.Sequential(
                nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, config.embedding_dim)
            ),
        ),
    )
    return net.to(memory_format=torch.channels_last)


def convnet(feature_dim: int) -> nn.Module:
    """A small network for quick studies and tests: 93,000 weights besides the last layer."""

    def block(width_in: int, width_out: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(width_out), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *block(3, 32, stride=2),
        *block(32, 64, stride=2),
        *block(64, 128, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, feature_dim),
    )


def resnet18(feature_dim: int) -> nn.Module:
    """torchvision's ResNet-18 (He et al. 2016), its stem kept also for small images."""
    from torchvision.models import resnet18

    net: nn.Module = resnet18(weights=None, num_classes=feature_dim)
    return net


BACKBONES: dict[str, Callable[[int], nn.Module]] = {"convnet": convnet, "resnet18": resnet18}
"""How each of `trial.BACKBONES` is made, from the width of its features."""
