"""One training step: from a batch of images to new weights, as a function of tensors alone.

Whatever changes from step to step comes in as `Inputs`. Nothing within the step reads a number back from the
device or sends one there, so that a GPU can replay it (`trainables.graph`).

Shapes: B images a batch, 3 channels, S pixels height and width, K classes.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.augment import Draws, Policy, augment, normalise, policies
from trainables.batches import draws_of_views
from trainables.datasets.splits import UNLABELLED
from trainables.fast.optimizer import SGD
from trainables.losses import Loss, cross_entropy, siamese_loss, with_term
from trainables.methods import needs_of, term_of
from trainables.methods.term import Term
from trainables.models import Mixing, SiameseNet
from trainables.randomness import generator, stream_seed
from trainables.trial import TrialConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What is new in a step.

    Attributes:
        seed: of what the device draws itself, such as dropout.
        images: (B, 3, S, S) uint8.
        targets: (B,) int64 classes, -1 where there is no label.
        draws: random numbers of each view's augmentation.
        mixing: how images are mixed; None where no term looks at mixed ones.
        lr: learning rate.
        target_keeps: the share that a target network keeps of itself; None where there is none.
    """

    seed: int
    images: Tensor
    targets: Tensor
    draws: tuple[Draws, ...]
    mixing: Mixing | None
    lr: float | Tensor
    target_keeps: float | Tensor | None

    def to(self, device: torch.device) -> "Inputs":
        """The same with all tensors on a device."""
        mixing = self.mixing and self.mixing.to(device)
        draws = tuple(draws.to(device) for draws in self.draws)
        images, targets = (one.to(device, non_blocking=True) for one in (self.images, self.targets))
        return dataclasses.replace(self, images=images, targets=targets, draws=draws, mixing=mixing)

    def buffers(self, device: torch.device) -> "Inputs":
        """Memory on a device for inputs of these shapes, numbers included."""
        # What the optimiser takes: on GPUs a pointer to fp32, on CPUs the number as Python has it.
        number = torch.zeros((), device=device, dtype=torch.float64 if device.type == "cpu" else None)
        here = self.to(device)
        return dataclasses.replace(
            here,
            images=torch.zeros_like(here.images),
            targets=torch.zeros_like(here.targets),
            draws=tuple(draws.zeros_like() for draws in here.draws),
            mixing=here.mixing and here.mixing.zeros_like(),
            lr=number.clone(),
            target_keeps=None if self.target_keeps is None else number.clone(),
        )

    def fill(self, buffers: "Inputs") -> None:
        """Write these inputs into `buffers` that were made for them."""
        for buffer, value in zip(buffers.parts(), self.parts(), strict=True):
            assert isinstance(buffer, Tensor)  # noqa: S101  # `buffers` has made it
            if isinstance(value, Tensor):
                buffer.copy_(value, non_blocking=True)
            else:
                buffer.fill_(value)

    def parts(self) -> list[Tensor | float]:
        """All tensors and numbers, in one order."""
        found: list[Tensor | float] = [self.images, self.targets, self.lr]
        for draws in self.draws:
            found += [draws.u, *draws.added.values()]
        if self.mixing is not None:
            found += [*self.mixing]
        return found if self.target_keeps is None else [*found, self.target_keeps]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A training step of a trial, which changes its network.

    Attributes:
        mean: of the channels of the dataset; `std` their deviation.
        sums: (5,) of `_sums`, added up over steps.
    """

    config: TrialConfig
    net: SiameseNet
    optimizer: SGD
    policies: tuple[Policy, ...]
    term: Term | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sums: Tensor

    @classmethod
    def of(
        cls,
        config: TrialConfig,
        net: SiameseNet,
        optimizer: SGD,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> "Step":
        """The step of a trial whose network is where it will be trained."""
        return cls(
            config=config,
            net=net,
            optimizer=optimizer,
            policies=policies(config),
            term=term_of(config),
            mean=mean,
            std=std,
            sums=torch.zeros(5, device=next(net.parameters()).device),
        )

    def inputs(self, images: Tensor, targets: Tensor, *, epoch: int, number: int, steps: int) -> Inputs:
        """Inputs of the step with this number, from 0, of an epoch with so many steps; draws on the CPU."""
        config = self.config
        before, every = (epoch - 1) * steps + number, config.epochs * steps
        keeps = None
        if self.term and self.term.target_momentum:
            keeps = self.term.target_momentum(config, (before + 1) / every)
        return Inputs(
            seed=stream_seed(config.seed, "dropout", epoch, number),
            images=images,
            targets=targets,
            draws=draws_of_views(config, len(images), self.policies, epoch=epoch, step=number),
            mixing=mixing(config, len(images), epoch, number),
            lr=_learning_rate(config, before, every),
            target_keeps=keeps,
        )

    def __call__(self, inputs: Inputs) -> None:
        """Train on a batch, wherever its inputs are."""
        torch.manual_seed(inputs.seed)
        self.run(inputs.to(self.sums.device))

    def run(self, inputs: Inputs) -> None:
        """Train on a batch whose inputs are on the network's device, where random numbers are seeded."""
        views = [
            normalise(augment(inputs.images, policy, draws), self.mean, self.std)
            for policy, draws in zip(self.policies, inputs.draws, strict=True)
        ]
        with torch.autocast(self.sums.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            loss, logits = forward(
                self.config, self.term, self.net, views=views, targets=inputs.targets, mixing=inputs.mixing
            )
        self.optimizer.zero_grad()
        loss.total.backward()
        self.optimizer.step(inputs.lr)
        if inputs.target_keeps is not None:
            self.net.move_target(inputs.target_keeps)
        self.sums.add_(_sums(loss, logits, inputs.targets))

    def state(self) -> dict[str, list[Tensor]]:
        """All that a step changes, in kinds that belong together."""
        weights, buffers = list(self.net.parameters()), list(self.net.buffers())
        return {
            "weights": [weight for weight in weights if weight.requires_grad],
            "target network": [weight for weight in weights if not weight.requires_grad],
            "statistics": [buffer for buffer in buffers if buffer.is_floating_point()],
            "counters": [buffer for buffer in buffers if not buffer.is_floating_point()],
            "momentum": [buffer for buffer in self.optimizer.momentum_buffers if buffer is not None],
            # Each by itself: the term may be far smaller than the loss, and counts far larger.
            "loss": [self.sums[0:1]],
            "cross-entropy": [self.sums[1:2]],
            "term": [self.sums[2:3]],
            "counts": [self.sums[3:]],
        }


def _learning_rate(config: TrialConfig, step: int, steps: int) -> float:
    if config.lr_schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * step / steps))


def mixing(config: TrialConfig, count: int, epoch: int, step: int) -> Mixing | None:
    """How the images of a step are mixed; None where no term looks at mixed ones."""
    if "mixed" not in needs_of(config):
        return None
    return Mixing.sample(count, generator(config.seed, "mixing", epoch, step))


def forward(
    config: TrialConfig,
    term: Term | None,
    net: SiameseNet,
    *,
    views: list[Tensor],
    targets: Tensor,
    mixing: Mixing | None,
) -> tuple[Loss, list[Tensor]]:
    """The loss of a batch and the logits of each view."""
    # All views at once: the gradient of a weight is computed once, not once a view and added up.
    if config.method == "fixmatch":
        # Its views are unlike: batch norm meets both together, as in the authors' code. Running statistics of
        # one and then the other would fit neither, nor clean images.
        h = net.features_of_views([torch.cat(views)])
    else:
        # Mixed images are no images: those that are evaluated are not normalised by their statistics.
        h = net.features_of_views([*views, mixing.of(*views)] if mixing else views, counted=len(views))
    logits = list(net.logits(h[: len(views) * len(targets)]).chunk(len(views)))
    if config.gamma is None:
        ce = cross_entropy(logits[0], targets)
        return Loss(ce, ce, None), logits
    value = None
    if term:
        pair = (logits[0], logits[1])
        branches = net.branches(
            needs_of(config), h=h, views=views, logits=pair, targets=targets, mixing=mixing
        )
        value = term.loss(branches, config)
    if config.method == "siamese":
        return siamese_loss(logits[0], logits[1], targets, value, gamma=config.gamma), logits
    ce = cross_entropy(logits[0], targets) if config.method == "fixmatch" else h.new_zeros(())
    return with_term(ce, value, gamma=config.gamma), logits


@torch.no_grad()
def _sums(loss: Loss, logits: list[Tensor], targets: Tensor) -> Tensor:
    """(5,) loss, ce, term, labelled views predicted right, labelled views."""
    labelled = targets != UNLABELLED
    right = torch.stack([((view.argmax(1) == targets) & labelled).sum() for view in logits]).sum()
    term = torch.zeros_like(loss.ce) if loss.term is None else loss.term
    return torch.stack([loss.total, loss.ce, term, right.float(), labelled.sum().float() * len(logits)])
