"""Backbones by name, and the Siamese network around one.

Shapes: B images, D = feature_dim, M = embedding_dim, K classes.
"""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainables.extensions import functions
from trainables.fast.convolution import speed_up
from trainables.fast.normalisation import NORMS, ViewBatchNorm2d, by_views, without_updates
from trainables.fast.pooling import pool_first
from trainables.methods import needs_of
from trainables.methods.term import Branches, Mixed, Pair
from trainables.randomness import stream_seed
from trainables.trial import TrialConfig


class Mixing(NamedTuple):
    """How images of two views are mixed: `alpha` of view 1, the rest of view 2 in `order` (B,)."""

    alpha: float | Tensor
    order: Tensor

    @classmethod
    def sample(cls, count: int, stream: torch.Generator) -> "Mixing":
        """Uniform alpha and a random order of `count` images."""
        alpha = torch.rand((), generator=stream).item()
        return cls(alpha, torch.randperm(count, generator=stream))

    def to(self, device: torch.device) -> "Mixing":
        """The same with the order on another device."""
        return self._replace(order=self.order.to(device, non_blocking=True))

    def zeros_like(self) -> "Mixing":
        """Memory for such numbers, `alpha` included."""
        return Mixing(torch.zeros((), device=self.order.device), torch.zeros_like(self.order))

    def of(self, view1: Tensor, view2: Tensor) -> Tensor:
        """The mixed images (B, 3, S, S)."""
        return torch.lerp(view2[self.order], view1, self.alpha)


class SiameseNet(nn.Module):
    """A backbone with a classifier and a projector, both of which read the features directly.

    The two branches of the thesis share their weights: this one network sees all views in one batch, and only
    batch norm meets one view at a time.

    Attributes:
        backbone: images (B, 3, S, S) to features h (B, D).
        classifier: features to scores of the classes (B, K).
        projector: features to embeddings z (B, M).
        predictor: embeddings to predictions of them (B, M); None unless the trial's term needs them.
        target: the network that follows this one without being trained; None unless the term needs it.
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

    def features_of_views(self, views: Sequence[Tensor], counted: int | None = None) -> Tensor:
        """Features (V·B, D) of V views (B, 3, S, S), view after view; batch norm meets each by itself.

        The first `counted` views alone update its running statistics, with which images are evaluated; None:
        all do.
        """
        norms = [module for module in self.backbone.modules() if isinstance(module, NORMS)]
        ours = [norm for norm in norms if isinstance(norm, ViewBatchNorm2d)]
        if len(views) > 1 and len(ours) < len(norms):
            return torch.cat(_one_by_one(self.backbone, views, counted))
        for norm in ours:
            norm.views, norm.counted = len(views), counted
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
        self,
        needs: Sequence[str],
        *,
        h: Tensor,
        views: Sequence[Tensor],
        logits: Pair,
        targets: Tensor,
        mixing: Mixing | None = None,
    ) -> Branches:
        """What a term that `needs` this looks at in a batch of two `views`.

        `h` are their features (2·B, D), with `mixing` followed by those of the mixed images (B, D).
        """
        both = 2 * len(views[0])
        found = Branches(targets, logits, _pair(h[:both]))
        if {"z", "predictions", "mixed"}.intersection(needs):
            z = _by_view(self.projector, h, len(h) // len(views[0]), counted=2)
            found = found._replace(z=_pair(z[:both]))
            if mixing is not None:
                found = found._replace(mixed=Mixed(z[both:], mixing.alpha, mixing.order))
            if self.predictor is not None:
                found = found._replace(predictions=_pair(_by_view(self.predictor, z[:both], 2)))
        if self.target is not None:
            with torch.no_grad():
                of_target = self.target.features_of_views(views)
                found = found._replace(target_z=_pair(_by_view(self.target.projector, of_target, 2)))
        return found

    def follow(self) -> None:
        """Take a copy of backbone and projector as the target network."""
        self.target = SiameseNet(
            copy.deepcopy(self.backbone), nn.Identity(), copy.deepcopy(self.projector)
        ).requires_grad_(False)

    @torch.no_grad()
    def move_target(self, momentum: float | Tensor) -> None:
        """Let the target network keep a share `momentum` of its weights and take the rest from this one's."""
        if self.target is not None:
            for part in ("backbone", "projector"):
                ours = getattr(self, part).parameters()
                for theirs, weight in zip(getattr(self.target, part).parameters(), ours, strict=True):
                    theirs.lerp_(weight, 1 - momentum)


def _by_view(head: nn.Module, x: Tensor, views: int, counted: int | None = None) -> Tensor:
    """A head's outputs (V·B, M) for V views (V·B, D): batch norm as in `SiameseNet.features_of_views`."""
    if not any(isinstance(module, NORMS) for module in head.modules()):
        together: Tensor = head(x)
        return together
    return torch.cat(_one_by_one(head, x.chunk(views), counted))


def _one_by_one(net: nn.Module, views: Sequence[Tensor], counted: int | None) -> list[Tensor]:
    """Outputs for each view, of which the first `counted` update running statistics."""
    outputs = [net(view) for view in views[:counted]]
    if len(outputs) < len(views):
        with without_updates(net):
            outputs += [net(view) for view in views[counted:]]
    return outputs


def _pair(both: Tensor) -> Pair:
    """Each view's half of a batch of both."""
    return both[: len(both) // 2], both[len(both) // 2 :]


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
    needs = needs_of(config)
    projector = _mlp if config.projector == "mlp" else _mlp_with_norms

    def part(name: str, make: Callable[[], nn.Module]) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(config.seed, f"weights of the {name}"))
            return make()

    net = SiameseNet(
        backbone=part("backbone", lambda: by_views(speed_up(pool_first(backbone(config.backbone, width))))),
        classifier=part("classifier", lambda: nn.Linear(width, num_classes)),
        projector=part("projector", lambda: projector(width, hidden, embedding)),
        predictor=part("predictor", lambda: _predictor(embedding, config.predictor_dim))
        if "predictions" in needs
        else None,
    )
    if "target_z" in needs:
        net.follow()
    return net.to(memory_format=torch.channels_last)


def _mlp(*widths: int) -> nn.Module:
    """Linear, ReLU, linear."""
    first, hidden, last = widths
    return nn.Sequential(nn.Linear(first, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, last))


def _mlp_with_norms(first: int, hidden: int, last: int) -> nn.Module:
    """Linear, batch norm, ReLU, twice, then linear, as Zbontar et al. (2021) have it."""
    layers: list[nn.Module] = []
    for width in (first, hidden):
        # Batch norm takes a bias away again.
        layers += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(hidden, last))


def _predictor(embedding: int, hidden: int) -> nn.Module:
    """Linear, batch norm, ReLU, linear, as in SimSiam and BYOL."""
    first = nn.Linear(embedding, hidden, bias=False)
    return nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, embedding))


def backbone(name: str, feature_dim: int) -> nn.Module:
    """A backbone by its name in `TrialConfig`, without pretrained weights; its last layer gives features."""
    if name in OWN:
        return OWN[name](feature_dim)
    if ("backbone", name) in functions:
        made: nn.Module = functions["backbone", name](feature_dim)
        if not isinstance(made, nn.Module):
            raise ValueError(f"backbone {name!r} returned {type(made).__name__}; allowed: a torch.nn.Module")
        return made
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
