"""Batch normalisation of several views in one batch, each by its own statistics.

One batch of all views keeps a device busier than one view after the other, and the gradient of a weight is
summed over views within a matrix product. But batch norm must meet one view at a time: statistics over all of
them would be another method. Here it does, whatever the layers around it are given.

Shapes: V views, B images a view, C channels, S pixels height and width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""What normalises by statistics of the batch."""


class ViewBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that in training normalises each view of a batch by that view's own statistics.

    The running statistics are updated view after view, as if each had been a batch by itself.

    Attributes:
        views: how many views, of equally many images, a batch in training holds, one after the other.
    """

    views = 1

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Normalised maps (V·B, C, S, S) of maps of that shape."""
        if not self.training:
            return super().forward(input)
        several = input.ndim == 4 and input[:, 0].numel() > self.views  # PyTorch refuses one value
        if input.device.type == "cpu" and several and self._is_common():
            y: Tensor = _BatchNorm.apply(input, self.weight, self.bias, self)
            return y
        of_one = super().forward
        return of_one(input) if self.views == 1 else torch.cat([of_one(x) for x in input.chunk(self.views)])

    def _is_common(self) -> bool:
        """With weights and moving averages."""
        return self.affine and self.track_running_stats and self.momentum is not None


def by_views(net: nn.Module) -> nn.Module:
    """Let the batch norms of a network know views; weights and names stay as they are."""
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = ViewBatchNorm2d
    return net


class _BatchNorm(torch.autograd.Function):
    """Batch norm of (V·B, C, S, S) on CPUs by PyTorch's own kernels, view by view, without copying views."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, norm: ViewBatchNorm2d) -> Tensor:
        x = _in_one_piece(x)
        y = torch.empty_like(x)
        mean, inverse = (weight.new_empty(norm.views, len(weight)) for _ in range(2))
        statistics = norm.running_mean, norm.running_var, True, norm.momentum, norm.eps
        for view, (x_view, y_view) in enumerate(
            zip(_parts(x, norm.views), _parts(y, norm.views), strict=True)
        ):
            saved = {"save_mean": mean[view], "save_invstd": inverse[view]}
            torch.ops.aten.native_batch_norm.out(x_view, weight, bias, *statistics, out=y_view, **saved)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked += norm.views
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.layout = norm.views, norm.eps  # type: ignore[attr-defined]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        dy = _in_one_piece(dy)
        views, eps = ctx.layout
        wanted = list(ctx.needs_input_grad[:3])
        dx = torch.empty_like(x) if wanted[0] else None
        sums: list[Tensor | None] = [None, None]  # gradients of weight and bias, over views
        for view, (dy_view, x_view) in enumerate(zip(_parts(dy, views), _parts(x, views), strict=True)):
            dx_view, *of_weights = torch.ops.aten.native_batch_norm_backward(
                dy_view, x_view, weight, None, None, mean[view], inverse[view], True, eps, wanted
            )
            if dx is not None:
                _parts(dx, views)[view].copy_(dx_view)
            for which, gradient in enumerate(of_weights):
                if wanted[1 + which]:
                    before = sums[which]
                    sums[which] = gradient if before is None else before.add_(gradient)
        return dx, *sums, None


def _in_one_piece(maps: Tensor) -> Tensor:
    """Maps without gaps in memory: of others PyTorch's kernel writes wrong numbers into a given output."""
    dense = maps.is_contiguous() or maps.is_contiguous(memory_format=torch.channels_last)
    return maps if dense else maps.contiguous()


def _parts(maps: Tensor, views: int) -> list[Tensor]:
    """Each view of maps (V·B, C, S, S), of one pixel as (1, C, B, 1): PyTorch is slow on 1 x 1 maps."""
    parts = maps.chunk(views)
    if maps.shape[-2:] != (1, 1):
        return list(parts)
    return [part.flatten(1).T[None, :, :, None] for part in parts]
