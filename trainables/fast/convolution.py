"""Convolutions of small maps on CPUs as the matrix products that they are.

PyTorch's CPU library is made for large maps. At 32 x 32 pixels the last stages of a ResNet-18 have maps of
2 x 2 and 1 x 1: there it multiplies mostly the zeros of the padding, and computes gradients of weights at a
fiftieth of the machine's rate. Here each position of the output is one matrix product of the pixels that its
kernel meets and of the part of the kernel that meets them: the same numbers, added up in another order.

Shapes: B images, C channels in, K channels out, S pixels height and width, O of the output, T the kernel's.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

AVX512 = "AVX512" in torch.backends.cpu.get_cpu_capability()
LARGEST_FORWARD = 3
"""Largest O whose forward pass is faster this way; measured, as the next ones, in docs/performance.md."""
LARGEST_BACKWARD = 3 if AVX512 else 4
"""Largest O whose gradients are: PyTorch's own of 4 x 4 maps are faster where it has AVX-512."""
WIDE, LARGEST_WIDE = 256, 5 if AVX512 else 0
"""Least of C and K, and the largest O, from and up to which both passes are faster in fp32 even so."""


class Position(NamedTuple):
    """Where one position of the output meets pixels and kernel; slices of rows and columns of each."""

    row: int
    column: int
    pixels: tuple[slice, slice]
    kernel: tuple[slice, slice]


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
        size = _output_size(input.shape[-1], self.kernel_size[0], self.stride[0], int(self.padding[0]))
        square = input.ndim == 4 and input.shape[-1] == input.shape[-2]
        half = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        largest = max(LARGEST_BACKWARD, 0 if half else _largest_wide(weight))
        if input.device.type != "cpu" or not square or not 1 <= size <= largest:
            return super()._conv_forward(input, weight, bias)
        stride, padding = self.stride[0], int(self.padding[0])
        if half:
            bias = None if bias is None else bias.to(half)
            y: Tensor = _HalfConvolution.apply(input.to(half), weight, stride, padding)
        else:
            y = _Convolution.apply(input, weight, stride, padding)
        return y if bias is None else y + bias.view(1, -1, 1, 1)


class _Convolution(torch.autograd.Function):
    """y = conv2d(x, w) of (B, C, S, S) and (K, C, T, T), without bias."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.layout = stride, padding  # type: ignore[attr-defined]
        return _forward(x, w, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, w = ctx.saved_tensors
        pixels, kernel, dy = (tensor.permute(0, 2, 3, 1) for tensor in (x, w, dy))
        of_pixels, of_kernel = ctx.needs_input_grad[:2]
        dx, dw = (torch.zeros_like(like) for like in (pixels, kernel))
        for at in _positions(x.shape[-1], w.shape[-1], *ctx.layout):
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


class _HalfConvolution(torch.autograd.Function):
    """The same of x in half precision and weights in fp32, which it casts.

    Products are added up in fp32 and rounded to half precision. Sums over positions would be rounded again
    and again: so each pixel of dx is one product, over all positions that meet it, and dw is summed in fp32.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        w = weight.to(x.dtype)
        ctx.save_for_backward(x, w)
        ctx.layout = stride, padding  # type: ignore[attr-defined]
        return _forward(x, w, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, w = ctx.saved_tensors
        pixels, kernel, dy = (tensor.permute(0, 2, 3, 1) for tensor in (x, w, dy))
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = _gradient_of_pixels(pixels, kernel, dy, *ctx.layout).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            dw = torch.zeros_like(kernel, dtype=torch.float32)
            for number, at in enumerate(_positions(x.shape[-1], w.shape[-1], *ctx.layout)):
                into = dw[:, *at.kernel]
                product = (dy[:, at.row, at.column].T @ pixels[:, *at.pixels].flatten(1)).view(into.shape)
                into.add_(product) if number else into.copy_(product)
            dw = dw.permute(0, 3, 1, 2)
        return dx, dw, None, None


def _forward(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    """y (B, K, O, O) of x (B, C, S, S) and w (K, C, T, T)."""
    size = _output_size(x.shape[-1], w.shape[-1], stride, padding)
    if size > max(LARGEST_FORWARD, _largest_wide(w)):
        return F.conv2d(x, w, stride=stride, padding=padding)
    pixels, kernel = x.permute(0, 2, 3, 1), w.permute(0, 2, 3, 1)
    y = x.new_empty(len(x), size, size, len(w))
    for at in _positions(x.shape[-1], w.shape[-1], stride, padding):
        block = pixels[:, *at.pixels].flatten(1)
        torch.mm(block, kernel[:, *at.kernel].flatten(1).T, out=y[:, at.row, at.column])
    return y.permute(0, 3, 1, 2)


def _largest_wide(w: Tensor) -> int:
    """`LARGEST_WIDE` of weights for which it holds."""
    return LARGEST_WIDE if w.dtype == torch.float32 and min(w.shape[:2]) >= WIDE else 0


def _gradient_of_pixels(pixels: Tensor, kernel: Tensor, dy: Tensor, stride: int, padding: int) -> Tensor:
    """dx (B, S, S, C) of pixels of that shape, the kernel (K, T, T, C) and dy (B, O, O, K)."""
    dx = torch.empty_like(pixels)
    meetings = list(_meeting(pixels.shape[1], kernel.shape[1], dy.shape[1], stride, padding))
    for row, (rows, kernel_rows) in enumerate(meetings):
        for column, (columns, kernel_columns) in enumerate(meetings):
            met = [kernel[:, i, j] for i in kernel_rows for j in kernel_columns]
            if met:
                torch.mm(dy[:, rows, columns].flatten(1), torch.cat(met), out=dx[:, row, column])
            else:  # steps that are longer than the kernel leave pixels out
                dx[:, row, column] = 0
    return dx


def _meeting(
    size: int, kernel: int, out: int, stride: int, padding: int
) -> Iterator[tuple[slice, list[int]]]:
    """For each row of pixels: the rows of the output that meet it, and with which row of the kernel."""
    for pixel in range(size):
        first = max(0, -(-(pixel + padding - kernel + 1) // stride))
        last = min(out - 1, (pixel + padding) // stride)
        yield slice(first, last + 1), [pixel + padding - row * stride for row in range(first, last + 1)]


def _add_product(into: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b, (n, r·c·C), to n blocks (n, r, c, C); within the product where they lie in one piece."""
    if into.dtype == a.dtype and into[0].is_contiguous():
        into.view(len(into), -1).addmm_(a, b)
    else:
        into += (a @ b).view(into.shape)


def _output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1


def _positions(size: int, kernel: int, stride: int, padding: int) -> Iterator[Position]:
    """The positions of the output, row by row."""
    meetings = []
    for position in range(_output_size(size, kernel, stride, padding)):
        begin = position * stride - padding
        first = max(0, -begin)
        last = max(first, min(kernel, size - begin))
        meetings.append((slice(begin + first, begin + last), slice(first, last)))
    for row, (pixel_rows, kernel_rows) in enumerate(meetings):
        for column, (pixel_columns, kernel_columns) in enumerate(meetings):
            yield Position(row, column, (pixel_rows, pixel_columns), (kernel_rows, kernel_columns))
