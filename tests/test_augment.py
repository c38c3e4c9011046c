"""Batched augmentation against torchvision, image by image with the same parameters."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from trainables import augment as augment_module
from trainables.augment import (
    ATTEMPTS,
    Draws,
    augment,
    crop_boxes,
    crop_resize,
    normalise,
    policies,
    policy,
)
from trainables.batches import draws_of_views
from trainables.catalogue import TRANSFORMS, AugmentationInfo
from trainables.extensions import functions
from trainables.trial import TrialConfig

Tiny = Callable[..., TrialConfig]

SIZES = [32, 96]
ALMOST_1 = 1 - 2**-24
"""The largest number that a draw can be."""


def images(count: int, size: int = 32) -> Tensor:
    return torch.randint(
        256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def sample(count: int, seed: int = 0) -> Draws:
    return Draws.sample(count, lambda name: torch.Generator().manual_seed(seed))


def draws_of(*, area: list[float], ratio: list[float], top: float = 0, left: float = 0) -> Draws:
    """Draws of one image; attempts beyond those given repeat the last."""
    area, ratio = (u + u[-1:] * (ATTEMPTS - len(u)) for u in (area, ratio))
    return Draws(torch.tensor([[*area, *ratio, top, left, 0, 0, 0]]))


def boxes_by_torchvision(count: int, size: int, scale_min: float) -> Tensor:
    image = torch.empty(3, size, size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scale, ratio = [scale_min, 1.0], [3 / 4, 4 / 3]
        return torch.tensor([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(count)])


def apply_by_torchvision(image: Tensor, draws: Draws, config: TrialConfig) -> Tensor:
    """All four transforms of one image (3, S, S) in 0–1, in order."""
    size = image.shape[-1]
    box = crop_boxes(draws, size, config.crop_scale_min)[0].tolist()
    image = tv.resized_crop(image, *box, [size, size], antialias=True)
    flip, grey, solar = draws.u[0, -3:].tolist()
    if flip < 0.5:
        image = tv.horizontal_flip(image)
    if grey < config.grayscale_p:
        image = tv.rgb_to_grayscale(image, num_output_channels=3)
    if solar < config.solarize_p:
        image = tv.solarize(image, 128 / 255)
    return image


@pytest.mark.parametrize("size", SIZES)
def test_crop_is_torchvisions(size: int) -> None:
    x = images(16, size).float() / 255
    boxes = crop_boxes(sample(16), size, 0.2)
    boxes[0] = torch.tensor([0, 0, size, size])
    boxes[1] = torch.tensor([size - 1, size - 1, 1, 1])
    ours = crop_resize(x, boxes)
    for image, box, view in zip(x, boxes.tolist(), ours, strict=True):
        theirs = tv.resized_crop(image, *box, [size, size], antialias=True)
        torch.testing.assert_close(view, theirs, rtol=0, atol=2e-5)
    torch.testing.assert_close(ours[0], x[0], rtol=0, atol=2e-5)


def test_pixels_outside_the_crop_have_no_influence() -> None:
    x = images(1).float() / 255
    box = torch.tensor([[5, 9, 12, 17]])
    black = torch.zeros_like(x)
    black[..., 5:17, 9:26] = x[..., 5:17, 9:26]
    torch.testing.assert_close(crop_resize(black, box), crop_resize(x, box), rtol=0, atol=1e-5)


def test_flip_is_exact(tiny: Tiny) -> None:
    x, draws = images(8), sample(8)
    views = augment(x, policy(tiny(), ("hflip",)), draws)
    flipped = draws.u[:, -3] < 0.5
    assert 0 < flipped.sum() < 8
    for image, view, flip in zip(x, views, flipped, strict=True):
        assert torch.equal(view, (tv.horizontal_flip(image) if flip else image).float() / 255)


def test_grayscale_is_torchvisions(tiny: Tiny) -> None:
    x = images(4)
    views = augment(x, policy(tiny(grayscale_p=1), ("grayscale",)), sample(4))
    for image, view in zip(x, views, strict=True):
        theirs = tv.rgb_to_grayscale(image.float() / 255, num_output_channels=3)
        torch.testing.assert_close(view, theirs, rtol=0, atol=1.1e-4)  # torchvision's red is 0.2989
    red, green, blue = (torch.eye(3, dtype=torch.uint8) * 255).view(3, 3, 1, 1).expand(3, 3, 32, 32)
    for image, luma in ((red, 0.299), (green, 0.587), (blue, 0.114)):
        (view,) = augment(image[None], policy(tiny(grayscale_p=1), ("grayscale",)), sample(1))
        torch.testing.assert_close(view, torch.full((3, 32, 32), luma))


def test_solarize_inverts_from_128_on(tiny: Tiny) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    (view,) = augment(levels, policy(tiny(solarize_p=1), ("solarize",)), sample(1))
    assert torch.equal(view, tv.solarize(levels[0].float() / 255, 128 / 255))
    expected = [*range(128), *range(127, -1, -1)]
    assert (view[0] * 255).round().flatten().tolist() == expected
    assert torch.equal((view * 255).round().byte(), tv.solarize(levels[0], 128))


@pytest.mark.parametrize("size", SIZES)
def test_all_four_in_order(size: int, tiny: Tiny) -> None:
    config = tiny(grayscale_p=0.5, solarize_p=0.5)
    x, draws = images(24, size), sample(24)
    decisions = draws.u[:, -3:] < 0.5
    assert len(decisions.unique(dim=0)) == 8  # every combination of flip, grayscale and solarize
    views = augment(x, policy(config, TRANSFORMS), draws)
    for i, view in enumerate(views):
        theirs = apply_by_torchvision(x[i].float() / 255, draws[torch.tensor([i])], config)
        error = (view - theirs).abs()
        # Where a value lies within rounding of the threshold, one side inverts it: 1 - 2 * 128 / 255.
        assert error.max() < 0.0045
        assert error.quantile(0.99) < 2e-4


def largest_gap(a: Tensor, b: Tensor) -> float:
    """The Kolmogorov-Smirnov statistic: largest distance between two empirical distributions."""
    grid = torch.cat([a, b]).unique()
    shares = [torch.searchsorted(x.sort().values, grid, right=True) / len(x) for x in (a, b)]
    return (shares[0] - shares[1]).abs().max().item()


@pytest.mark.parametrize(("size", "scale_min"), [(32, 0.2), (96, 0.2), (32, 0.08)])
def test_crops_are_distributed_as_torchvisions(size: int, scale_min: float) -> None:
    count = 4000
    ours = crop_boxes(sample(count), size, scale_min).double()
    theirs = boxes_by_torchvision(count, size, scale_min).double()
    for name, of in {
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "height": lambda box: box[:, 2],
        "width": lambda box: box[:, 3],
        "area": lambda box: box[:, 2] * box[:, 3],
        "ratio": lambda box: box[:, 3] / box[:, 2],
        "free below": lambda box: size - box[:, 0] - box[:, 2],
    }.items():
        # 1 % of two samples of one distribution lie further apart.
        assert largest_gap(of(ours), of(theirs)) < 1.63 * math.sqrt(2 / count), name
    area = (ours[:, 2] * ours[:, 3] / size**2).mean().item()
    assert area == pytest.approx((theirs[:, 2] * theirs[:, 3] / size**2).mean().item(), abs=0.015)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale_min", [0.01, 0.2, 1.0])
def test_crops_lie_within_the_image(size: int, scale_min: float) -> None:
    u = torch.cat([sample(2000).u, torch.zeros(1, 25), torch.full((1, 25), ALMOST_1)])
    corner = sample(2000).u
    corner[:, -5:-3] = ALMOST_1
    boxes = crop_boxes(Draws(torch.cat([u, corner])), size, scale_min)
    top, left, height, width = boxes.unbind(1)
    assert boxes.dtype == torch.int64
    assert min(top.min(), left.min()) == 0
    assert min(height.min(), width.min()) >= 1
    assert (top + height).max() == (left + width).max() == size


def test_crop_from_its_draws() -> None:
    # Area 0.2 + 0.0625 * 0.8 = a quarter, ratio 1 (the middle of the logarithms): 16 x 16, 17 places.
    draws = draws_of(area=[0.0625], ratio=[0.5], top=0.5, left=ALMOST_1)
    assert crop_boxes(draws, 32, 0.2).tolist() == [[8, 16, 16, 16]]
    # Sides of 20.7 pixels are rounded, as torchvision does.
    draws = draws_of(area=[((20.7 / 32) ** 2 - 0.2) / 0.8], ratio=[0.5])
    assert crop_boxes(draws, 32, 0.2).tolist() == [[0, 0, 21, 21]]


def test_first_crop_that_fits_is_taken() -> None:
    # The whole area at ratio 3/4 is higher than the image.
    draws = draws_of(area=[ALMOST_1, 0.0625, 0.5], ratio=[0, 0.5, 0.5])
    assert crop_boxes(draws, 32, 0.2).tolist() == [[0, 0, 16, 16]]


@pytest.mark.parametrize("ratio", [0, ALMOST_1])
@pytest.mark.parametrize("size", SIZES)
def test_whole_image_where_no_crop_fits(size: int, ratio: float) -> None:
    draws = draws_of(area=[ALMOST_1], ratio=[ratio], top=ALMOST_1, left=ALMOST_1)
    never = RandomResizedCrop.get_params(torch.empty(3, size, size), [2.0, 2.0], [3 / 4, 4 / 3])
    assert crop_boxes(draws, size, 0.2).tolist() == [list(never)] == [[0, 0, size, size]]


def test_each_image_has_its_own_parameters(tiny: Tiny) -> None:
    config = tiny(grayscale_p=0.5, solarize_p=0.5)
    x, draws = images(1).expand(8, -1, -1, -1), sample(8)
    views = augment(x, policy(config, TRANSFORMS), draws)
    assert len(views.flatten(1).unique(dim=0)) == 8
    for i in range(8):
        alone = augment(x[:1], policy(config, TRANSFORMS), draws[torch.tensor([i])])
        torch.testing.assert_close(alone[0], views[i], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_subsets_share_the_parameters_of_what_they_have_in_common(name: str, tiny: Tiny) -> None:
    """Adding a transform changes only those images that it meets."""
    config = tiny(grayscale_p=0.5, solarize_p=0.5)
    x, draws = images(16), sample(16)
    meets = {
        "rrc": torch.ones(16, dtype=torch.bool),
        **{other: draws.happens(other, 0.5).flatten() for other in TRANSFORMS if other != "rrc"},
    }[name]
    with_it = augment(x, policy(config, TRANSFORMS), draws)
    without = augment(x, policy(config, tuple(t for t in TRANSFORMS if t != name)), draws)
    changed = (with_it != without).flatten(1).any(1)
    assert torch.equal(changed, meets)


def test_probabilities() -> None:
    draws = sample(10_000)
    for name, p in (("hflip", 0.5), ("grayscale", 0.2), ("solarize", 0.2)):
        happens = draws.happens(name, p)
        assert happens.shape == (10_000, 1, 1, 1)
        assert happens.float().mean().item() == pytest.approx(p, abs=3 * math.sqrt(p * (1 - p) / 10_000))
        assert not draws.happens(name, 0).any()
        assert draws.happens(name, 1).all()


def test_view_is_fp32_and_none_is_the_image_itself(tiny: Tiny) -> None:
    x = images(2)
    view = augment(x, policy(tiny(), ()), sample(2))
    assert view.dtype == torch.float32
    assert torch.equal(view, x.float() / 255)


def test_ce_has_one_view_by_the_probabilities(tiny: Tiny) -> None:
    (only,) = policies(tiny(method="ce", views="asymmetric", grayscale_p=0.3, solarize_p=0.4))
    assert only.transforms == ("rrc", "solarize")
    assert only.p == {"hflip": 0.5, "grayscale": 0.3, "solarize": 0.4}


def test_symmetric_views_are_alike(tiny: Tiny) -> None:
    view1, view2 = policies(tiny(views="symmetric", grayscale_p=0.3, solarize_p=0.4, crop_scale_min=0.5))
    assert view1 == view2
    assert (view1.p["grayscale"], view1.p["solarize"], view1.crop_scale_min) == (0.3, 0.4, 0.5)


def test_asymmetric_view_1_is_always_grey_and_solarized(tiny: Tiny) -> None:
    config = tiny(views="asymmetric", augmentations=TRANSFORMS, grayscale_p=0.3, crop_scale_min=0.5)
    view1, view2 = policies(config)
    assert view1.p == {"hflip": 0.5, "grayscale": 1, "solarize": 1}
    assert view2.p == {"hflip": 0.5, "grayscale": 0.3, "solarize": 0.2}
    assert view1.transforms == view2.transforms == TRANSFORMS
    assert view1.crop_scale_min == view2.crop_scale_min == 0.5
    x = augment(images(20), view1, sample(20))
    assert torch.equal(x[:, 0], x[:, 1])
    assert x.max() < 128 / 255


def test_asymmetric_views_get_no_transform_outside_the_subset(tiny: Tiny) -> None:
    view1, view2 = policies(tiny(views="asymmetric", augmentations=("hflip", "solarize")))
    assert view1.transforms == view2.transforms == ("hflip", "solarize")


@pytest.mark.parametrize("views", ["symmetric", "asymmetric"])
def test_a_clean_second_view_is_the_image_itself(views: str, tiny: Tiny) -> None:
    config = tiny(views=views, augmentations=TRANSFORMS)
    view1, view2 = policies(config.replace(second_view="clean"))
    assert view1 == policies(config)[0]
    x = images(4)
    assert torch.equal(augment(x, view2, sample(4)), x.float() / 255)


def test_always_flipped_is_every_image_mirrored_after_its_crop(tiny: Tiny) -> None:
    x, draws = images(6), sample(6)
    crops = augment(x, policies(tiny(augmentations=("rrc",)))[0], draws)
    for view in policies(tiny(augmentations=("rrc", "hflip"), hflip_p=1)):
        assert torch.equal(augment(x, view, draws), crops.flip(-1))
    (alone,) = policies(tiny(method="ce", augmentations=("hflip",), hflip_p=1))
    assert torch.equal(augment(x, alone, draws), x.float().flip(-1) / 255)


def test_policy_is_in_canonical_order(tiny: Tiny) -> None:
    assert policy(tiny(), ("solarize", "rrc", "rrc")).transforms == ("rrc", "solarize")


def test_normalise_takes_the_channels_mean_and_deviation_away() -> None:
    x = images(10).double() / 255 * torch.tensor([1, 0.5, 0.25]).view(1, 3, 1, 1)
    channels = x.transpose(0, 1).flatten(1)
    mean, std = channels.mean(1), channels.std(1, correction=0)
    z = normalise(x, tuple(mean.tolist()), tuple(std.tolist()))
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3).double())
    torch.testing.assert_close(z.var((0, 2, 3), correction=0), torch.ones(3).double())
    torch.testing.assert_close(z[:, 2], (x[:, 2] - mean[2]) / std[2])
    assert z.is_contiguous(memory_format=torch.channels_last)


def test_a_flipped_crop_is_the_crop_flipped() -> None:
    """To the last bit; and images are not changed by what is made of them."""
    draws = sample(16)
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    x, boxes = images.float() / 255, crop_boxes(draws, 32, 0.2)
    before, flipped = x.clone(), draws.happens("hflip", 0.5)
    expected = torch.where(flipped, crop_resize(x, boxes).flip(-1), crop_resize(x, boxes))
    assert torch.equal(crop_resize(x, boxes, flipped), expected)
    normalise(x, (0.5,) * 3, (0.2,) * 3)
    assert torch.equal(x, before)


def inverted(images: Tensor, u: Tensor) -> Tensor:
    """Images with each channel inverted by chance, from one number an image and channel."""
    return torch.where(u.view(-1, 3, 1, 1) < 0.5, 1 - images, images)


def test_an_added_augmentation_changes_no_draw_of_the_others(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a random stream, a probability and a place of its own: between crop and flip, here."""
    x, config = images(40), tiny(augmentations=TRANSFORMS)
    streams: list[str] = []

    def stream(name: str) -> torch.Generator:
        streams.append(name)
        return torch.Generator().manual_seed(len(name))

    before = Draws.sample(40, stream, TRANSFORMS)
    expected = augment(x, policy(config, TRANSFORMS), before)
    assert streams == [""]

    names = ("rrc", "invert", "hflip", "grayscale", "solarize")
    known = dict.fromkeys(names, AugmentationInfo()) | {"invert": AugmentationInfo(p=0.3, numbers=3)}
    monkeypatch.setattr(augment_module, "AUGMENTATIONS", known)
    monkeypatch.setitem(functions, ("augmentation", "invert"), inverted)
    draws = Draws.sample(40, stream, names)
    assert streams[1:] == ["", " invert"]
    assert torch.equal(draws.u, before.u)
    assert torch.equal(augment(x, policy(config, TRANSFORMS), draws), expected)

    happens = draws.happens("invert", 0.3)
    assert 0 < happens.sum() < 40
    crops = augment(x, policy(config, ("rrc",)), draws)
    changed = torch.where(happens, inverted(crops, draws.added["invert"][:, 1:]), crops)
    flipped = torch.where(draws.happens("hflip", 0.5), changed.flip(-1), changed)
    assert torch.equal(augment(x, policy(config, ("hflip", "invert", "rrc")), draws), flipped)
    some = draws[torch.tensor([3, 5])]
    assert torch.equal(some.added["invert"], draws.added["invert"][[3, 5]])


@pytest.mark.parametrize("name", ["hflip", "grayscale", "solarize"])
def test_chosen_images_alone_are_computed_as_if_all_were(name: str) -> None:
    """As on GPUs, where all are computed and each takes its own."""
    config = TrialConfig(dataset="digits", backbone="convnet", augmentations=(name,), method="ce", seed=0)
    (of_view,) = policies(config)
    images = torch.randint(0, 256, (64, 3, 9, 9), dtype=torch.uint8)
    before = images.clone()
    (draws,) = draws_of_views(config, 64, (of_view,), epoch=1, step=0)
    x = images.float().div_(255)
    happens = draws.happens(name, of_view.p[name])
    assert 0 < happens.sum() < 64
    expected = torch.where(happens, augment_module._applied(name, x, draws), x)
    assert torch.equal(augment(images, of_view, draws), expected)
    assert torch.equal(images, before)
