"""Convolutions of small maps on CPUs as the matrix products that they are.

PyTorch's CPU library is made for large maps. At 32 x 32 pixels the last stages of a ResNet-18 have maps of
2 x 2 and 1 x 1: there it multiplies mostly the zeros of the padding, and computes gradients of weights at a
fiftieth of the machine's rate. Here each position of the output is one matrix product of the pixels that its
kernel meets and of the part of the kernel that meets them: the same numbers, added up in another order.

Shapes: B images, C channels in, K channels out, S pixels height and width, O of the output, T the kernel's.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from trainables.fast import half
from trainables.fast.positions import output_size, positions

AVX512 = "AVX512" in torch.backends.cpu.get_cpu_capability()
LARGEST_FORWARD = 3
"""Largest O whose forward pass is faster this way; measured, as the next ones, in docs/performance.md."""
LARGEST_BACKWARD = 3 if AVX512 else 4
"""Largest O whose gradients are: PyTorch's own of 4 x 4 maps are faster where it has AVX-512."""
WIDE, LARGEST_WIDE = 256, 5 if AVX512 else 0
"""Least of C and K, and the largest O, from and up to which both passes are faster in fp32 even so."""


def speed_up(net: nn.Module) -> nn.Module:
    """Make the plain convolutions of a network fast on small maps; weights and names stay as they are."""
    for module in net.modules():
        if type(module) is nn.Conv2d and _is_plain(module):
            module.__class__ = SmallMapConv2d
    return net


def _is_plain(conv: nn.Conv2d) -> bool:
    """Without groups, holes, or other padding than the same number of zeros on all sides; square."""
    return (
        conv.groups == 1
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and len({*conv.padding}) == len({*conv.stride}) == len({*conv.kernel_size}) == 1
    )


class SmallMapConv2d(nn.Conv2d):
    """`nn.Conv2d` that computes small maps on CPUs as matrix products."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002  # torch's
        stride, padding = self.stride[0], int(self.padding[0])
        square = input.ndim == 4 and input.shape[-1] == input.shape[-2]
        in_half = torch.is_autocast_enabled("cpu")
        is_small = half.is_small if in_half else _is_small
        if input.device.type != "cpu" or not square or not is_small(input.shape[-1], weight, stride, padding):
            return super()._conv_forward(input, weight, bias)
        if in_half:
            precision = torch.get_autocast_dtype("cpu")
            bias = None if bias is None else bias.to(precision)
            y: Tensor = half.Convolution.apply(input.to(precision), weight, stride, padding)
        else:
            y = _Convolution.apply(input, weight, stride, padding)
        return y if bias is None else y + bias.view(1, -1, 1, 1)


class _Convolution(torch.autograd.Function):
    """y = conv2d(x, w) of (B, C, S, S) and (K, C, T, T), without bias."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.layout = stride, padding  # type: ignore[attr-defined]
        return _forward(x, w, stride, padding).data  # no view, which autograd lets nobody change in place

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, w = ctx.saved_tensors
        pixels, kernel, dy = (tensor.permute(0, 2, 3, 1) for tensor in (x, w, dy))
        of_pixels, of_kernel = ctx.needs_input_grad[:2]
        dx, dw = (torch.zeros_like(like) for like in (pixels, kernel))
        for at in positions(x.shape[-1], w.shape[-1], *ctx.layout):
            dy_here = dy[:, at.row, at.column]
            if of_pixels:
                _add_product(dx[:, *at.pixels], dy_here, kernel[:, *at.kernel].flatten(1))
            if of_kernel:
                _add_product(dw[:, *at.kernel], dy_here.T, pixels[:, *at.pixels].flatten(1))
        return (
            dx.permute(0, 3, 1, 2) if of_pixels else None,
            dw.permute(0, 3, 1, 2) if of_kernel else None,
            None,
            None,
        )


def _forward(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    """y (B, K, O, O) of x (B, C, S, S) and w (K, C, T, T)."""
    size = output_size(x.shape[-1], w.shape[-1], stride, padding)
    if size > max(LARGEST_FORWARD, _largest_wide(w)):
        return F.conv2d(x, w, stride=stride, padding=padding)
    pixels, kernel = x.permute(0, 2, 3, 1), w.permute(0, 2, 3, 1)
    y = x.new_empty(len(x), size, size, len(w))
    for at in positions(x.shape[-1], w.shape[-1], stride, padding):
        block = pixels[:, *at.pixels].flatten(1)
        torch.mm(block, kernel[:, *at.kernel].flatten(1).T, out=y[:, at.row, at.column])
    return y.permute(0, 3, 1, 2)


def _is_small(size: int, weight: Tensor, stride: int, padding: int) -> bool:
    """Whether maps of `size` pixels are among those that are faster here."""
    out = output_size(size, weight.shape[-1], stride, padding)
    return 1 <= out <= max(LARGEST_BACKWARD, _largest_wide(weight))


def _largest_wide(w: Tensor) -> int:
    """`LARGEST_WIDE` of weights for which it holds."""
    return LARGEST_WIDE if w.dtype == torch.float32 and min(w.shape[:2]) >= WIDE else 0


def _add_product(into: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b, (n, r·c·C), to n blocks (n, r, c, C); within the product where they lie in one piece."""
    if into.dtype == a.dtype and into[0].is_contiguous():
        into.view(len(into), -1).addmm_(a, b)
    else:
        into += (a @ b).view(into.shape)
