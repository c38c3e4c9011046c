"""Backbones by name, and the Siamese network around one.

Shapes: B images, D = feature_dim, M = embedding_dim, K classes.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trainables.fast.convolution import speed_up
from trainables.fast.normalisation import NORMS, ViewBatchNorm2d, by_views
from trainables.methods import term_of
from trainables.methods.term import Branches, Pair, Term
from trainables.randomness import stream_seed
from trainables.trial import TrialConfig


class SiameseNet(nn.Module):
    """A backbone with a classifier and a projector, both of which read the features directly.

    The two branches of the thesis share their weights: this one network sees all views in one batch, and only
    batch norm meets one view at a time.

    Attributes:
        backbone: images (B, 3, S, S) to features h (B, D).
        classifier: features to scores of the classes (B, K).
        projector: features to embeddings z (B, M).
        predictor: embeddings to predictions of them (B, M); None unless the trial's term has one.
        target: the network that follows this one without being trained; None unless the term has one.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classifier: nn.Module,
        projector: nn.Module,
        predictor: nn.Module | None = None,
    ) -> None:
        """Take the parts as they are."""
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier
        self.projector = projector
        self.predictor = predictor
        self.target: SiameseNet | None = None

    def features(self, x: Tensor) -> Tensor:
        """Features h, (B, D), of normalised images (B, 3, S, S)."""
        return self.features_of_views([x])

    def features_of_views(self, views: Sequence[Tensor]) -> Tensor:
        """Features (V·B, D) of V views (B, 3, S, S), view after view; batch norm meets each by itself."""
        norms = [module for module in self.backbone.modules() if isinstance(module, NORMS)]
        ours = [norm for norm in norms if isinstance(norm, ViewBatchNorm2d)]
        if len(views) > 1 and len(ours) < len(norms):
            return torch.cat([self.features(view) for view in views])
        for norm in ours:
            norm.views = len(views)
        h: Tensor = self.backbone(views[0] if len(views) == 1 else torch.cat(list(views)))
        return h

    def logits(self, h: Tensor) -> Tensor:
        """Class scores, (B, K), from features (B, D)."""
        logits: Tensor = self.classifier(h)
        return logits

    def embedding(self, h: Tensor) -> Tensor:
        """Embedding z, (B, M), from features (B, D)."""
        z: Tensor = self.projector(h)
        return z

    def branches(
        self, term: Term, h: Tensor, views: Sequence[Tensor], logits: Pair, targets: Tensor
    ) -> Branches:
        """What a term looks at in a batch of two `views`, with features h (2·B, D)."""
        z = self.embedding(h) if term.projector else None
        predictions = self.predictor(z) if self.predictor is not None else None
        target_z = None
        if self.target is not None:
            with torch.no_grad():
                target_z = self.target.embedding(self.target.features_of_views(views))
        return Branches(targets, logits, *map(_pair, (z, predictions, target_z)))

    def follow(self) -> None:
        """Take a copy of backbone and projector as the target network."""
        self.target = SiameseNet(
            copy.deepcopy(self.backbone), nn.Identity(), copy.deepcopy(self.projector)
        ).requires_grad_(False)

    @torch.no_grad()
    def move_target(self, momentum: float) -> None:
        """Let the target network keep a share `momentum` of its weights and take the rest from this one's."""
        if self.target is not None:
            for part in ("backbone", "projector"):
                ours = getattr(self, part).parameters()
                for theirs, weight in zip(getattr(self.target, part).parameters(), ours, strict=True):
                    theirs.lerp_(weight, 1 - momentum)


def _pair(both: Tensor | None) -> Pair | None:
    """Each view's half of a batch of both."""
    return None if both is None else (both[: len(both) // 2], both[len(both) // 2 :])


def without_storage(make: Callable[[], nn.Module]) -> nn.Module:
    """The network that `make` returns on PyTorch's meta device: shapes alone, no memory for weights."""
    try:
        with torch.device("meta"):
            return make()
    except NotImplementedError:  # RegNets compute their widths with tensors
        return make().to("meta")


def build(config: TrialConfig, num_classes: int) -> SiameseNet:
    """The network of a trial, with its initial weights.

    Each part draws its weights from a stream of its own, so that all arms of a seed start from the same
    backbone and classifier.
    """
    width, hidden, embedding = config.feature_dim, config.hidden_dim, config.embedding_dim
    term = term_of(config)

    def part(name: str, make: Callable[[], nn.Module]) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(config.seed, f"weights of the {name}"))
            return make()

    net = SiameseNet(
        backbone=part("backbone", lambda: by_views(speed_up(backbone(config.backbone, width)))),
        classifier=part("classifier", lambda: nn.Linear(width, num_classes)),
        projector=part("projector", lambda: _mlp(width, hidden, embedding)),
        predictor=part("predictor", lambda: _mlp(embedding, hidden, embedding))
        if term and term.predictor
        else None,
    )
    if term and term.target_momentum:
        net.follow()
    return net.to(memory_format=torch.channels_last)


def _mlp(*widths: int) -> nn.Module:
    """Linear, ReLU, linear."""
    first, hidden, last = widths
    return nn.Sequential(nn.Linear(first, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, last))


def backbone(name: str, feature_dim: int) -> nn.Module:
    """A backbone by its name in `TrialConfig`, without pretrained weights; its last layer gives features."""
    if name in OWN:
        return OWN[name](feature_dim)
    from torchvision.models import get_model

    net: nn.Module = get_model(name, weights=None, num_classes=feature_dim)
    return net


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


def resnet18_cifar(feature_dim: int) -> nn.Module:
    """torchvision's ResNet-18 with the stem of He et al. (2016) for CIFAR-10: 3 x 3, no max-pooling."""
    net = backbone("resnet18", feature_dim)
    stem = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as all of its convolutions
    net.conv1, net.maxpool = stem, nn.Identity()
    return net


OWN: dict[str, Callable[[int], nn.Module]] = {"convnet": convnet, "resnet18_cifar": resnet18_cifar}
"""Backbones that torchvision does not have, from the width of their features."""
