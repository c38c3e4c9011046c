"""Convolutions of small maps are those of PyTorch, to rounding."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.fast import convolution, half
from trainables.fast.convolution import SmallMapConv2d, speed_up
from trainables.models import backbone, build
from trainables.trial import TrialConfig

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def gradients(conv: nn.Module, x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """Output, and the gradients of the input and of all weights."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = conv(x)
    return (y, *torch.autograd.grad(y, [x, *conv.parameters()], dy))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        *((1, 3, 1, 1), (2, 3, 1, 1), (2, 3, 2, 1), (3, 3, 1, 1), (4, 3, 1, 1), (4, 3, 2, 1), (8, 3, 2, 1)),
        *((2, 1, 2, 0), (1, 1, 1, 0), (2, 1, 1, 1), (2, 2, 1, 0), (3, 7, 2, 3), (5, 4, 3, 2), (2, 1, 2, 2)),
    ],
)
def test_small_maps_are_pytorchs(
    *,
    size: int,
    kernel: int,
    stride: int,
    padding: int,
    bias: bool,
    layout: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(convolution, "LARGEST_BACKWARD", 4)  # as on processors without AVX-512
    torch.manual_seed(0)
    plain = nn.Conv2d(5, 7, kernel, stride, padding, bias=bias, dtype=torch.float64).to(memory_format=layout)
    fast = speed_up(copy.deepcopy(plain))
    assert type(fast) is SmallMapConv2d
    x = torch.randn(3, 5, size, size, dtype=torch.float64).to(memory_format=layout)
    assert plain(x).shape[-1] <= 4
    dy = torch.randn_like(plain(x))
    found, expected = gradients(fast, x, dy), gradients(plain, x, dy)
    assert type(found[0].grad_fn).__name__ in ("_ConvolutionBackward", "AddBackward0")
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        *((1, 3, 1, 1), (2, 3, 1, 1), (2, 3, 2, 1), (3, 3, 1, 1), (4, 3, 2, 1), (2, 1, 2, 0), (3, 1, 1, 0)),
        *((3, 7, 2, 3), (5, 4, 3, 2), (2, 1, 2, 2), (5, 1, 2, 0), (2, 2, 1, 0), (6, 1, 2, 0)),
    ],
)
def test_half_precision_is_exact_where_numbers_are(
    *,
    size: int,
    kernel: int,
    stride: int,
    padding: int,
    layout: torch.memory_format,
) -> None:
    assert_exact((size, kernel, stride, padding), layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        *((4, 3, 1, 1), (5, 3, 1, 1), (8, 3, 1, 1), (8, 3, 2, 1), (7, 3, 2, 1), (8, 1, 1, 0), (8, 1, 2, 0)),
        *((7, 1, 2, 0), (8, 5, 1, 2), (13, 5, 3, 2), (15, 7, 2, 3)),
    ],
)
@pytest.mark.parametrize("images", [6, 17])
def test_larger_maps_where_a_processor_has_amx(
    *,
    size: int,
    kernel: int,
    stride: int,
    padding: int,
    layout: torch.memory_format,
    images: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where images lie side by side, none meets its neighbour."""
    joined = []
    straight = half._joined
    monkeypatch.setattr(half, "_joined", lambda maps, n, width: joined.append(n) or straight(maps, n, width))
    monkeypatch.setattr(half, "HAS_AMX", True)
    assert_exact((size, kernel, stride, padding), layout, images)
    assert joined == ([] if kernel == 1 else [6 if images == 6 else 1] * 2)
    monkeypatch.setattr(half, "HAS_AMX", False)
    plain = speed_up(nn.Conv2d(3, 4, kernel, stride, padding, bias=False))
    with torch.autocast("cpu", torch.bfloat16):
        assert type(plain(torch.zeros(1, 3, size, size)).grad_fn).__name__ == "ConvolutionBackward0"


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "way"),
    [
        (8, 1, 2, 0, half._Pointwise),
        (1, 1, 1, 0, half._Pointwise),
        (1, 3, 1, 1, half._Dense),
        (2, 3, 1, 1, half._Dense),
        (2, 3, 2, 1, half._Dense),
        (2, 2, 1, 0, half._Dense),
        (4, 7, 1, 3, half._Library),  # its matrix would be five times as large as its kernel
        (3, 5, 1, 2, half._Products),  # likewise
        (4, 3, 2, 1, half._Products),
        (4, 3, 1, 1, half._Library),
    ],
)
def test_each_layer_is_computed_in_the_way_that_is_fastest(
    *, size: int, kernel: int, stride: int, padding: int, way: type
) -> None:
    assert type(half._layer(size, kernel, stride, padding)) is way


@pytest.mark.parametrize(
    ("size", "kernel", "padding", "has_amx", "is_small"),
    [
        *((3, 3, 1, False, True), (4, 3, 1, False, False), (4, 3, 1, True, True), (8, 3, 1, True, True)),
        *((9, 3, 1, True, False), (8, 1, 0, True, True), (3, 4, 1, True, True), (6, 3, 0, True, False)),
        *((7, 4, 1, True, False), (1, 3, 0, True, False)),
    ],
)
def test_which_layers_are_computed_here(
    *, size: int, kernel: int, padding: int, has_amx: bool, is_small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half, "HAS_AMX", has_amx)
    weight = torch.zeros(1, 1, kernel, kernel)
    assert half.is_small(size, weight, 1, padding) == is_small
    assert not half.is_small(size, weight.double(), 1, padding)  # autocast leaves them alone


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_outputs_can_be_changed_in_place(
    size: int, precision: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ReLU without a batch norm does."""
    monkeypatch.setattr(half, "HAS_AMX", True)
    net = nn.Sequential(speed_up(nn.Conv2d(2, 3, 3, padding=1, bias=False)), nn.ReLU(inplace=True))
    x = torch.randn(2, 2, size, size)
    with torch.autocast("cpu", precision, enabled=precision is not None):
        y = net(x)
    y.sum().backward()
    assert bool((y >= 0).all())


@pytest.mark.parametrize("images", [0, 1])
@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(1, 3, 1), (2, 3, 1), (4, 1, 2), (4, 3, 2), (8, 3, 1)]
)
def test_few_images(
    *, images: int, size: int, kernel: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half, "HAS_AMX", True)
    conv = speed_up(nn.Conv2d(2, 3, kernel, stride, kernel // 2))
    x = torch.randn(images, 2, size, size, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    y.sum().backward()
    assert y.shape == conv(x).shape
    assert x.grad is not None
    assert x.grad.shape == x.shape


def assert_exact(layer: tuple[int, int, int, int], layout: torch.memory_format, images: int = 6) -> None:
    """Of small integers bf16 keeps all that is computed: any sum over too much or too little shows."""
    torch.manual_seed(0)
    size, kernel, stride, padding = layer
    plain = nn.Conv2d(3, 4, kernel, stride, padding, bias=False).to(memory_format=layout)
    plain.weight.data = torch.randint(-1, 2, plain.weight.shape).float().to(memory_format=layout)
    x = torch.randint(-1, 2, (images, 3, size, size)).float().to(memory_format=layout)
    dy = (torch.rand(plain(x).shape) < 0.2).float().to(memory_format=layout)  # few, or sums pass 256
    expected = gradients(plain, x, dy)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(speed_up(copy.deepcopy(plain)), x, dy.bfloat16())
    assert type(found[0].grad_fn).__name__ == "ConvolutionBackward"
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() <= 256
        assert torch.equal(ours.float(), theirs)


@pytest.mark.parametrize("channels", [16, 15])
def test_wide_layers_of_larger_maps_are_products_too(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp32 with AVX-512; exact where numbers are."""
    monkeypatch.setattr(convolution, "LARGEST_BACKWARD", 3)
    monkeypatch.setattr(convolution, "LARGEST_WIDE", 5)
    monkeypatch.setattr(convolution, "WIDE", 16)
    monkeypatch.setattr(half, "HAS_AMX", False)
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, 20, 3, padding=1, bias=False)
    plain.weight.data = torch.randint(-1, 2, plain.weight.shape).float()
    x = torch.randint(-1, 2, (3, channels, 4, 4)).float()
    dy = torch.randint(-1, 2, plain(x).shape).float()
    conv = speed_up(copy.deepcopy(plain))
    for ours, theirs in zip(gradients(conv, x, dy), gradients(plain, x, dy), strict=True):
        assert torch.equal(ours, theirs)
    products = "_ConvolutionBackward" if channels == 16 else "ConvolutionBackward0"
    assert type(conv(x).grad_fn).__name__ == products
    with torch.autocast("cpu", torch.bfloat16):
        assert type(conv(x).grad_fn).__name__ == "ConvolutionBackward0"


def test_gradients_of_weights_are_not_rounded_to_half_precision() -> None:
    """Sums over the positions of a map: 1 + 2**-10 is no bf16 number."""
    conv = speed_up(nn.Conv2d(1, 1, 3, padding=1, bias=False))
    x = torch.tensor([[[[1.0, 0.0], [0.0, 2**-10]]]])
    with torch.autocast("cpu", torch.bfloat16):
        conv(x).sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad[0, 0, 1, 1] == 1 + 2**-10


def test_gradients_are_right() -> None:
    """Against finite differences."""
    torch.manual_seed(0)
    conv = speed_up(nn.Conv2d(2, 3, 3, padding=1, bias=False, dtype=torch.float64))
    x = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(conv, (x,))
    assert torch.autograd.gradcheck(
        lambda w: torch.func.functional_call(conv, {"weight": w}, (x.detach(),)), (conv.weight,)
    )


def test_the_first_layer_has_no_gradient_of_its_images() -> None:
    conv = speed_up(nn.Conv2d(3, 4, 3, padding=1))
    x = torch.randn(2, 3, 2, 2)
    conv(x).sum().backward()
    expected = torch.autograd.grad(F.conv2d(x, conv.weight, padding=1).sum(), conv.weight)[0]
    torch.testing.assert_close(conv.weight.grad, expected)


@pytest.mark.parametrize("size", [16, 5])
def test_larger_maps_are_left_to_pytorch(size: int) -> None:
    """To the last bit."""
    conv = speed_up(nn.Conv2d(3, 4, 3, padding=1))
    x = torch.randn(2, 3, size, size)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1))
    assert type(conv(x).grad_fn).__name__ == "ConvolutionBackward0"


def test_only_plain_convolutions_are_changed() -> None:
    kinds = [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, (3, 1)),
        nn.Conv2d(4, 4, 3, stride=(1, 2)),
        nn.ConvTranspose2d(4, 4, 3),
    ]
    net = speed_up(nn.Sequential(*kinds))
    assert [type(module) for module in net] == [type(kind) for kind in kinds]
    assert not any(isinstance(module, SmallMapConv2d) for module in net)


def test_oblong_maps_are_left_to_pytorch() -> None:
    conv = speed_up(nn.Conv2d(3, 4, 3, padding=1))
    x = torch.randn(2, 3, 2, 5)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1))


def test_autocast_computes_in_its_type() -> None:
    conv = speed_up(nn.Conv2d(64, 32, 3, padding=1))
    x = torch.randn(16, 64, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.dtype == torch.float32
    exact = F.conv2d(x, conv.weight, conv.bias, padding=1)
    (expected,) = torch.autograd.grad(exact.square().sum(), conv.weight)
    assert (y.float() - exact).abs().max() < 0.02 * exact.abs().max()
    assert (conv.weight.grad - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize("name", ["convnet", "resnet18", "vgg16"])
def test_a_network_is_the_same_to_rounding(name: str) -> None:
    """Weights, names, and in double precision outputs and gradients."""
    config = TrialConfig(
        dataset="digits", backbone=name, augmentations=(), method="ce", feature_dim=16, hidden_dim=16, seed=0
    )
    ours = build(config, 10).backbone.double().eval()
    plain = backbone(name, 16).double().eval()
    assert plain.load_state_dict(ours.state_dict()) is not None
    assert list(plain.state_dict()) == list(ours.state_dict())
    if name == "vgg16":  # most of the time would go into its linear layers of a hundred million weights
        ours.classifier = plain.classifier = torch.nn.Linear(512 * 7 * 7, 16).double()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    found, expected = (gradients(net, x, torch.ones(4, 16).double()) for net in (ours, plain))
    for one, other in zip(found, expected, strict=True):
        assert (one.detach() - other.detach()).abs().max() <= 1e-9
