"""Batch norm of several views in one batch is batch norm of one view after the other."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trainables.fast.normalisation import ViewBatchNorm2d, by_views
from trainables.models import SiameseNet, build
from trainables.trial import TrialConfig

Tiny = Callable[..., TrialConfig]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def one_by_one(norm: nn.Module, x: Tensor, views: int) -> Tensor:
    return torch.cat([norm(view) for view in x.chunk(views)])


def outcome(norm: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor, dy: Tensor) -> list[Tensor]:
    """Output, gradients of input and weights, and all statistics afterwards."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = forward(x)
    return [y, *torch.autograd.grad(y, [x, *norm.parameters()], dy), *norm.buffers()]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.3, "eps": 0.1},
        {"momentum": None},
        {"affine": False},
        {"track_running_stats": False},
    ],
)
def test_it_is_pytorchs_view_by_view(
    options: dict[str, object], size: int, views: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(6, **options, dtype=torch.float64)  # type: ignore[arg-type]
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    ours = by_views(nn.Sequential(copy.deepcopy(plain)))[0]  # type: ignore[index]
    assert type(ours) is ViewBatchNorm2d
    ours.views = views
    for _ in range(2):  # the second step finds the statistics of the first
        x = (torch.randn(4 * views, 6, size, size, dtype=torch.float64) * 3 + 1).to(memory_format=layout)
        dy = torch.randn_like(x)
        found = outcome(ours, ours, x, dy)
        expected = outcome(plain, lambda x: one_by_one(plain, x, views), x, dy)
        assert len(found) == len(expected)
        assert found[0].is_contiguous(memory_format=layout)
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    x = torch.randn(4 * views, 6, size, size, dtype=torch.float64)
    assert torch.equal(ours.eval()(x), plain.eval()(x))


CUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "half of the channels": lambda x: x[:, ::2],
    "the second half": lambda x: x.chunk(2, 1)[1],
    "transposed": lambda x: x.transpose(2, 3)[:, :6],
    "cropped": lambda x: x[:, :6, 1:-1, 1:-1],
    "expanded": lambda x: x[:, :6, :1].expand(-1, -1, 5, -1),
    "every other image": lambda x: torch.stack([x, x], 1).flatten(0, 1)[::2, :6],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_maps_that_do_not_fill_their_memory(
    cut: Callable[[Tensor], Tensor], layout: torch.memory_format
) -> None:
    """As a backbone in a file of one's own may have them."""
    torch.manual_seed(0)
    x = cut(torch.randn(8, 12, 5, 5, dtype=torch.float64).to(memory_format=layout) * 3 + 1)
    plain = nn.BatchNorm2d(x.shape[1], dtype=torch.float64)
    ours = by_views(nn.Sequential(copy.deepcopy(plain)))[0]  # type: ignore[index]
    ours.views = 2
    dy = torch.randn(x.shape, dtype=torch.float64)

    def outcome(norm: nn.Module, forward: Callable[[Tensor], Tensor]) -> list[Tensor]:
        leaf = x.detach().requires_grad_()  # as it lies in memory: a copy would fill its own
        y = forward(leaf)
        return [y, *torch.autograd.grad(y, [leaf, *norm.parameters()], dy), *norm.buffers()]

    expected = outcome(plain, lambda x: one_by_one(plain, x, 2))
    for mine, theirs in zip(outcome(ours, ours), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_half_precision_maps_meet_weights_in_single_precision() -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(8)
    ours = ViewBatchNorm2d(8)
    ours.views = 2
    x = torch.randn(16, 8, 4, 4, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    found = outcome(ours, ours, x, torch.ones_like(x))
    expected = outcome(plain, lambda x: one_by_one(plain, x, 2), x, torch.ones_like(x))
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", ["convnet", "resnet18", "vgg16_bn", "densenet121", "efficientnet_b0"])
def test_a_network_meets_views_at_once_as_one_after_the_other(name: str, tiny: Tiny) -> None:
    net = build(tiny(backbone=name), 10)
    if name == "vgg16_bn":  # most of its time goes into linear layers that know no views
        net.backbone.classifier = nn.Linear(512 * 7 * 7, 4)  # type: ignore[union-attr]
    net = net.double()
    for module in net.modules():
        if isinstance(module, nn.Dropout) or type(module).__name__ == "StochasticDepth":
            module.p = 0.0  # type: ignore[assignment]
    apart = copy.deepcopy(net)
    views = [torch.randn(4, 3, 32, 32, dtype=torch.float64) for _ in range(2)]
    h, expected = net.train().features_of_views(views), torch.cat([apart.train().features(v) for v in views])
    torch.testing.assert_close(h, expected)
    h.square().mean().backward()
    expected.square().mean().backward()
    torch.testing.assert_close(net.state_dict(), apart.state_dict())
    for p, q in zip(net.backbone.parameters(), apart.backbone.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_views_meet_a_batch_norm_of_another_kind_one_after_the_other() -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12))
    expected = copy.deepcopy(backbone)
    net = SiameseNet(by_views(backbone), nn.Identity(), nn.Identity())
    views = [torch.randn(5, 3, 2, 2), torch.randn(5, 3, 2, 2) + 4]
    assert torch.equal(net.features_of_views(views), torch.cat([expected(view) for view in views]))
    torch.testing.assert_close(net.backbone.state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_one_view_after_two_is_one(tiny: Tiny) -> None:
    """Statistics are re-estimated after training, in batches that are no views."""
    net = build(tiny(), 10)
    x = torch.randn(4, 3, 32, 32)
    expected = copy.deepcopy(net).features(x)
    net.features_of_views([x, x])
    assert torch.equal(net.features(x), expected)
