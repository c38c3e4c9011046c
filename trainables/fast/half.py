"""Convolutions of small maps in half precision on CPUs.

Products are added up in fp32 and rounded to half precision. Sums of several products would be rounded again
and again: so each number of an output and of a map's gradient is one product, and where gradients of weights
are sums of several, these are added up in fp32.

Shapes: B images, C channels in, K channels out, S pixels height and width, O of the output, T the kernel's.
Maps are (B, S, S, C) here and kernels (K, T, T, C), as they lie in memory.
"""

import abc
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainables.bf16 import AMX, units
from trainables.fast.positions import Position, meeting, output_size, positions

LARGEST = 3
"""Largest O that is faster here on any processor; measured, as the next one, in docs/performance.md."""
LARGEST_WITH_AMX = 8
"""Largest O that is where a processor has AMX, of kernels of 1 x 1 and of those that keep the maps' size."""
SIDE_BY_SIDE = 16
"""Images at most whose maps are joined there."""
HAS_AMX = units() == AMX


def is_small(size: int, weight: Tensor, stride: int, padding: int) -> bool:
    """Whether maps of `size` pixels are among those that are faster here."""
    kernel = weight.shape[-1]
    largest = LARGEST_WITH_AMX if HAS_AMX and kernel == 2 * padding + 1 else LARGEST
    return weight.dtype == torch.float32 and 1 <= output_size(size, kernel, stride, padding) <= largest


class Convolution(torch.autograd.Function):
    """y = conv2d(x, w) of x (B, C, S, S) in half precision and w (K, C, T, T) in fp32, without bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:  # noqa: D102  # torch's
        layer = _layer(x.shape[-1], weight.shape[-1], stride, padding)
        w = layer.prepare(weight.permute(0, 2, 3, 1), x.dtype)
        ctx.save_for_backward(x, w)
        ctx.layer = layer
        y = layer.forward(x.permute(0, 2, 3, 1), w).permute(0, 3, 1, 2)
        return y.data  # no view, which autograd lets nobody change in place

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # noqa: D102
        x, w = ctx.saved_tensors
        x, dy = x.permute(0, 2, 3, 1), dy.permute(0, 2, 3, 1)
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = ctx.layer.gradient_of_maps(x, w, dy).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            dw = ctx.layer.gradient_of_kernel(x, dy).permute(0, 3, 1, 2)
        return dx, dw, None, None


@dataclass(frozen=True, slots=True)
class _Layer(abc.ABC):
    """A way to compute layers; `prepare` gives the weights in half precision, as other methods take them."""

    size: int
    kernel: int
    stride: int
    padding: int

    @property
    def positions(self) -> Sequence[Position]:
        return positions(self.size, self.kernel, self.stride, self.padding)

    @property
    def out(self) -> int:
        return output_size(self.size, self.kernel, self.stride, self.padding)

    def prepare(self, kernel: Tensor, half: torch.dtype) -> Tensor:
        return kernel.to(half)

    @abc.abstractmethod
    def forward(self, x: Tensor, w: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def gradient_of_maps(self, x: Tensor, w: Tensor, dy: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def gradient_of_kernel(self, x: Tensor, dy: Tensor) -> Tensor: ...

    def _zeros(self, x: Tensor, dy: Tensor) -> Tensor:
        """A gradient of the kernel to add to."""
        return torch.zeros(dy.shape[-1], self.kernel, self.kernel, x.shape[-1])


@functools.cache
def _layer(size: int, kernel: int, stride: int, padding: int) -> _Layer:
    """What is fastest for a layer."""
    whole, out = (slice(0, size),) * 2, output_size(size, kernel, stride, padding)
    way: type[_Layer] = _Library
    if (kernel, padding) == (1, 0):
        way = _Pointwise
    # Of large kernels the matrix would repeat each weight too often.
    elif (size * out) ** 2 <= 2 * kernel**2 and all(
        at.pixels == whole for at in positions(size, kernel, stride, padding)
    ):
        way = _Dense
    elif out <= LARGEST:
        way = _Products
    return way(size, kernel, stride, padding)


class _Pointwise(_Layer):
    """One matrix product over all pixels that are met."""

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return (self._met(x) @ w.flatten(1).T).view(len(x), self.out, self.out, len(w))

    def gradient_of_maps(self, x: Tensor, w: Tensor, dy: Tensor) -> Tensor:
        product = dy.reshape(-1, len(w)) @ w.flatten(1)
        if self.stride == 1:
            return product.view(x.shape)
        dx = x.new_zeros(x.shape)
        dx[:, :: self.stride, :: self.stride] = product.view(*dy.shape[:3], x.shape[-1])
        return dx

    def gradient_of_kernel(self, x: Tensor, dy: Tensor) -> Tensor:
        return (dy.flatten(0, 2).T @ self._met(x)).float()[:, None, None]

    def _met(self, x: Tensor) -> Tensor:
        return x[:, :: self.stride, :: self.stride].reshape(-1, x.shape[-1])


class _Dense(_Layer):
    """One matrix (O·O·K, S·S·C) without zeros: maps of so few pixels that each position meets them all."""

    def prepare(self, kernel: Tensor, half: torch.dtype) -> Tensor:
        count, channels = len(kernel), kernel.shape[-1]
        matrix = kernel.new_empty(*(self.out, self.out, count, self.size, self.size, channels), dtype=half)
        for at in self.positions:
            matrix[at.row, at.column] = kernel[:, *at.kernel]
        return matrix.view(self.out * self.out * count, -1)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return (x.flatten(1) @ w.T).view(len(x), self.out, self.out, len(w) // self.out**2)

    def gradient_of_maps(self, x: Tensor, w: Tensor, dy: Tensor) -> Tensor:
        return (dy.flatten(1) @ w).view(x.shape)

    def gradient_of_kernel(self, x: Tensor, dy: Tensor) -> Tensor:
        blocks = (dy.flatten(1).T @ x.flatten(1)).view(*dy.shape[1:], *x.shape[1:])
        if self.out > 1:
            blocks = blocks.float()  # faster than to add bf16 to fp32
        dw = self._zeros(x, dy)
        for number, at in enumerate(self.positions):
            into, block = dw[:, *at.kernel], blocks[at.row, at.column]
            into.add_(block) if number else into.copy_(block)
        return dw


class _Products(_Layer):
    """A product for each position, of the pixels and the part of the kernel that meet there."""

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        y = x.new_empty(len(x), self.out, self.out, len(w))
        for at in self.positions:
            met = x[:, *at.pixels].flatten(1)
            torch.mm(met, w[:, *at.kernel].flatten(1).T, out=y[:, at.row, at.column])
        return y

    def gradient_of_maps(self, x: Tensor, w: Tensor, dy: Tensor) -> Tensor:
        dx = torch.empty_like(x)
        meetings = meeting(self.size, self.kernel, self.stride, self.padding)
        for row, (rows, kernel_rows) in enumerate(meetings):
            for column, (columns, kernel_columns) in enumerate(meetings):
                met = [w[:, i, j] for i in kernel_rows for j in kernel_columns]
                if met:
                    torch.mm(dy[:, rows, columns].flatten(1), torch.cat(met), out=dx[:, row, column])
                else:  # steps that are longer than the kernel leave pixels out
                    dx[:, row, column] = 0
        return dx

    def gradient_of_kernel(self, x: Tensor, dy: Tensor) -> Tensor:
        dw = self._zeros(x, dy)
        for number, at in enumerate(self.positions):
            into = dw[:, *at.kernel]
            product = (dy[:, at.row, at.column].T @ x[:, *at.pixels].flatten(1)).view(into.shape)
            into.add_(product) if number else into.copy_(product)
        return dw


class _Library(_Layer):
    """PyTorch's own, but for the gradient of weights: several images side by side, with zeros between them.

    That is the same sum. But it goes along rows, and oneDNN's kernels for AMX fill each row up to 32 pixels:
    of rows of 4 pixels they compute eight times as much as there is.
    """

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x, w = x.permute(0, 3, 1, 2), w.permute(0, 3, 1, 2)
        return F.conv2d(x, w, stride=self.stride, padding=self.padding).permute(0, 2, 3, 1)

    def gradient_of_maps(self, x: Tensor, w: Tensor, dy: Tensor) -> Tensor:
        return self._gradient(x, w, dy, 0)

    def gradient_of_kernel(self, x: Tensor, dy: Tensor) -> Tensor:
        images = max(n for n in range(1, SIDE_BY_SIDE + 1) if len(x) % n == 0)
        # So many zeros that no position of one image meets the next one, in whole steps.
        width = -(-(self.size + self.padding) // self.stride)
        w = x.new_empty(dy.shape[-1], self.kernel, self.kernel, x.shape[-1])  # its values do not matter
        x, dy = _joined(x, images, width * self.stride), _joined(dy, images, width)
        return self._gradient(x, w, dy, 1).float()

    def _gradient(self, x: Tensor, w: Tensor, dy: Tensor, which: int) -> Tensor:
        """Of maps (0) or of the kernel (1)."""
        maps = (tensor.permute(0, 3, 1, 2) for tensor in (dy, x, w))
        gradients = torch.ops.aten.convolution_backward(
            *(*maps, None, [self.stride] * 2, [self.padding] * 2, [1, 1], False, [0, 0], 1),
            [which == 0, which == 1, False],
        )
        found: Tensor = gradients[which]
        return found.permute(0, 2, 3, 1)


def _joined(maps: Tensor, images: int, width: int) -> Tensor:
    """Maps (B / n, S, n·W, C): n images side by side, each with zeros up to W pixels."""
    count, height, row, channels = maps.shape
    joined = maps.new_empty(count // images, height, images, width, channels)
    joined[:, :, :, row:] = 0
    joined[:, :, :, :row] = maps.reshape(-1, images, height, row, channels).transpose(1, 2)
    return joined.flatten(2, 3)
