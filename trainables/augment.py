"""Batched augmentation on the training device: one draw of parameters an image, one tensor operation a batch.

Shapes: B images a batch, 3 channels, S pixels height and width.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.catalogue import AUGMENTATIONS, TARGETED, TRANSFORMS
from trainables.extensions import functions
from trainables.trial import TrialConfig, two_views

RATIO = (3 / 4, 4 / 3)
"""Range of a random crop's aspect ratio, as torchvision's default."""
ATTEMPTS = 10
"""Crops tried before the central one is taken, as in torchvision."""
SOLARIZE_THRESHOLD = 128 / 255
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Which augmentations a view gets, in their order, and how often.

    Attributes:
        transforms: names in `AUGMENTATIONS`.
        crop_scale_min: smallest share of the area that a crop keeps.
        p: the probability of each that does not always happen.
    """

    transforms: tuple[str, ...]
    crop_scale_min: float
    p: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Draws:
    """Uniform random numbers in [0, 1) for the augmentations of B images.

    Those of the thesis's four are always drawn, whatever the subset: subsets then share the parameters of
    the augmentations that they have in common, and trials differ in nothing else.

    Attributes:
        u: (B, 2 * ATTEMPTS + 5). Areas and aspect ratios of the crops tried, then the crop's top and
            left, flip, grayscale, solarize.
        added: (B, 1 + numbers) of each added augmentation: whether it happens, then its own.
    """

    u: Tensor
    added: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def sample(
        cls, count: int, stream: Callable[[str], torch.Generator], transforms: Iterable[str] = ()
    ) -> "Draws":
        """Draws for `count` images that will get these transforms.

        `stream` gives the generator at the start of a random stream, whose name ends with what is passed:
        nothing for the thesis's four, a space and the name of an added one.
        """
        u = torch.rand(count, 2 * ATTEMPTS + 5, generator=stream(""))
        added = {
            name: torch.rand(count, 1 + AUGMENTATIONS[name].numbers, generator=stream(f" {name}"))
            for name in transforms
            if name not in TRANSFORMS
        }
        return cls(u, added)

    def to(self, device: torch.device) -> "Draws":
        """The same on another device."""
        return self._each(lambda numbers: numbers.to(device, non_blocking=True))

    def zeros_like(self) -> "Draws":
        """Memory for as many draws."""
        return self._each(torch.zeros_like)

    def __getitem__(self, index: Tensor) -> "Draws":
        """The draws of some of the images."""
        return self._each(lambda numbers: numbers[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Draws":
        return Draws(change(self.u), {name: change(numbers) for name, numbers in self.added.items()})

    @property
    def area(self) -> Tensor:
        """(B, ATTEMPTS) of the crops."""
        return self.u[:, :ATTEMPTS]

    @property
    def ratio(self) -> Tensor:
        """(B, ATTEMPTS) of the crops."""
        return self.u[:, ATTEMPTS : 2 * ATTEMPTS]

    @property
    def top(self) -> Tensor:
        """(B,) of the crop."""
        return self.u[:, -5]

    @property
    def left(self) -> Tensor:
        """(B,) of the crop."""
        return self.u[:, -4]

    def happens(self, transform: str, p: float) -> Tensor:
        """(B, 1, 1, 1) bool: which images get an augmentation of probability `p`."""
        column = {"hflip": -3, "grayscale": -2, "solarize": -1}
        u = self.u[:, column[transform]] if transform in column else self.added[transform][:, 0]
        return (u < p).view(-1, 1, 1, 1)


def policies(config: TrialConfig) -> tuple[Policy, ...]:
    """The training policy of each view: of one, or of two."""
    view1 = policy(config, config.augmentations)
    if not two_views(config):
        return (view1,)
    always = dataclasses.replace(view1, p={**view1.p, **dict.fromkeys(TARGETED, 1.0)})
    if config.method == "fixmatch":
        weak = tuple(name for name in view1.transforms if name not in TARGETED)
        return (dataclasses.replace(view1, transforms=weak), always)
    view2 = policy(config, ()) if config.second_view == "clean" else view1
    return (view1 if config.views == "symmetric" else always, view2)


def policy(config: TrialConfig, transforms: tuple[str, ...]) -> Policy:
    """`transforms` with the config's probabilities."""
    ordered = tuple(name for name in AUGMENTATIONS if name in transforms)
    p = {name: _probability(config, name) for name in AUGMENTATIONS if name != "rrc"}
    return Policy(transforms=ordered, crop_scale_min=config.crop_scale_min, p=p)


def _probability(config: TrialConfig, name: str) -> float:
    own = AUGMENTATIONS[name].p
    return float(getattr(config, f"{name}_p")) if own is None else own


def augment(images: Tensor, policy: Policy, draws: Draws) -> Tensor:
    """One view of each image.

    From (B, 3, S, S) uint8 to (B, 3, S, S) fp32 in 0–1; the draws are on the same device.
    """
    x = images.float().div_(255)
    for before, name in zip((None, *policy.transforms), policy.transforms, strict=False):
        if name == "rrc":
            # A mirrored grid samples the same points: a flip that follows costs nothing here.
            followed = ("rrc", "hflip") in itertools.pairwise(policy.transforms)
            flipped = draws.happens("hflip", policy.p["hflip"]) if followed else None
            x = crop_resize(x, crop_boxes(draws, images.shape[-1], policy.crop_scale_min), flipped)
        elif not (name == "hflip" and before == "rrc"):
            x = _applied_to(draws.happens(name, policy.p[name]), name, x, draws)
    return x


def _applied_to(chosen: Tensor, name: str, x: Tensor, draws: Draws) -> Tensor:
    """Images (B, 3, S, S), of which those `chosen` (B, 1, 1, 1) are augmented."""
    if x.device.type != "cpu" or name in draws.added:  # a GPU would have to be asked how many they are
        return torch.where(chosen, _applied(name, x, draws), x)
    some = chosen.flatten().nonzero().squeeze(1)
    x[some] = _applied(name, x[some], draws)
    return x


def _applied(name: str, x: Tensor, draws: Draws) -> Tensor:
    """What an augmentation makes of all images (B, 3, S, S)."""
    if name == "hflip":
        return x.flip(-1)
    if name == "grayscale":
        return (x * _by_channel(LUMA, x)).sum(1, keepdim=True)
    if name == "solarize":
        return torch.where(x >= SOLARIZE_THRESHOLD, 1 - x, x)
    return applied_own(name, x, draws.added[name][:, 1:])


def applied_own(name: str, x: Tensor, numbers: Tensor) -> Tensor:
    """What an augmentation in a loaded file makes of images (B, 3, S, S), with random numbers (B, n)."""
    function = functions["augmentation", name]
    made = function(images=x, u=numbers) if AUGMENTATIONS[name].numbers else function(images=x)
    if not isinstance(made, Tensor) or made.shape != x.shape:
        got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise ValueError(f"augmentation {name!r} returned {got}; allowed: a tensor of shape {tuple(x.shape)}")
    return made


def crop_boxes(draws: Draws, size: int, scale_min: float) -> Tensor:
    """Boxes of torchvision's RandomResizedCrop for square images of `size` pixels.

    `scale_min` is the smallest share of the area; the largest is 1.

    Returns:
        (B, 4) int64: top, left, height, width.
    """
    area = size * size * (scale_min + draws.area * (1 - scale_min))
    low, high = (math.log(ratio) for ratio in RATIO)
    ratio = (low + draws.ratio * (high - low)).exp()
    width = (area * ratio).sqrt().round().long()
    height = (area / ratio).sqrt().round().long()
    fits = (width > 0) & (width <= size) & (height > 0) & (height <= size)
    first = fits.long().argmax(1, keepdim=True)
    whole = torch.full_like(first.squeeze(1), size)
    width = torch.where(fits.any(1), width.gather(1, first).squeeze(1), whole)
    height = torch.where(fits.any(1), height.gather(1, first).squeeze(1), whole)
    top = (draws.top * (size - height + 1)).long()
    left = (draws.left * (size - width + 1)).long()
    return torch.stack([top, left, height, width], dim=1)


def crop_resize(x: Tensor, boxes: Tensor, flipped: Tensor | None = None) -> Tensor:
    """Crop each image to its box and enlarge it to the old size, bilinearly.

    A box is never larger than the image, so torchvision's antialiasing does nothing here and the result
    is the same as of its `resized_crop`. As there, pixels outside the box have no influence.

    Args:
        x: (B, 3, S, S) floating point, as the result.
        boxes: (B, 4) top, left, height, width in pixels.
        flipped: (B, 1, 1, 1) bool, which images to mirror afterwards; None: none.
    """
    size = x.shape[-1]
    top, left, height, width = boxes.to(x.dtype).unsqueeze(2).unbind(1)
    center = (torch.arange(size, device=x.device, dtype=x.dtype) + 0.5) / size
    # Sampling no further out than the centres of the box's outermost pixels repeats the box's edge.
    rows = top + torch.minimum((center * height - 0.5).clamp_min(0), height - 1)
    columns = left + torch.minimum((center * width - 0.5).clamp_min(0), width - 1)
    if flipped is not None:
        columns = torch.where(flipped.view(-1, 1), columns.flip(1), columns)
    # grid_sample's coordinates: -1 and 1 are the centres of the image's outermost pixels.
    rows, columns = (2 * pixels / (size - 1) - 1 for pixels in (rows, columns))
    grid = torch.stack(
        [columns[:, None, :].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)], dim=3
    )
    return F.grid_sample(x, grid, mode="bilinear", align_corners=True)


def normalise(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x - mean) / std by channel, for x of (B, 3, S, S) in 0–1, in the memory format of the networks."""
    x = (x - _by_channel(mean, x)).div_(_by_channel(std, x))
    return x.contiguous(memory_format=torch.channels_last)


def _by_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    """One number for each channel, (1, 3, 1, 1), of the device and type of a tensor."""
    return _sent(values, like.dtype, like.device)


@functools.cache
def _sent(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Once to each device: sending numbers waits for a GPU, and cannot be a part of a graph."""
    return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1)
