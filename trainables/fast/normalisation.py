"""Batch normalisation of several views in one batch, each by its own statistics.

One batch of all views keeps a device busier than one view after the other, and the gradient of a weight is
summed over views within a matrix product. But statistics over all views would be another method: batch norm
has to meet one view at a time, and here it does.

Shapes: V views, B images a view, C channels, S pixels height and width.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""What normalises by statistics of the batch."""


class ViewBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that in training normalises each view of a batch by that view's own statistics.

    The running statistics are updated view after view, as if each had been a batch by itself.

    Attributes:
        views: how many views, of equally many images, a batch in training holds, one after the other.
        counted: how many of them, the first ones, update the running statistics; None: all.
    """

    views = 1
    counted: int | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """Normalised maps (V·B, C, S, S) of maps of that shape."""
        if not self.training or self.views == 1:
            return super().forward(input)
        several = input.numel() > self.views * self.num_features
        if input.device.type == "cpu" and self.affine and several and _is_plain(input):
            y: Tensor = _OneByOne.apply(input, self.weight, self.bias, self)
            return y
        one_view = super().forward
        views = input.chunk(self.views)
        counted = [one_view(view) for view in views[: self.counted]]
        if len(counted) == len(views):
            return torch.cat(counted)
        with without_updates(self):
            return torch.cat([*counted, *(one_view(view) for view in views[self.counted :])])

    def count(self, view: int) -> tuple[Tensor | None, Tensor | None, float]:
        """Running mean and variance that a view updates, and its share in them; as in `nn.BatchNorm2d`."""
        counts = self.counted is None or view < self.counted
        if not counts or not self.track_running_stats or self.num_batches_tracked is None:
            return None, None, 0.0
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        return self.running_mean, self.running_var, share


def _is_plain(maps: Tensor) -> bool:
    """Whether maps lie in memory in one of the two usual orders, without gaps.

    For others, such as half of the channels, PyTorch's kernel for CPUs leaves the means as it finds them.
    """
    return maps.is_contiguous() or maps.is_contiguous(memory_format=torch.channels_last)


class _OneByOne(torch.autograd.Function):
    """PyTorch's batch norm of each view on CPUs; each writes its part of one output, so nothing is joined."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: ViewBatchNorm2d) -> Tensor:
        y, statistics = torch.empty_like(x), []
        for view, (x_v, y_v) in enumerate(zip(x.chunk(norm.views), y.chunk(norm.views), strict=True)):
            running = norm.count(view)
            mean, invstd = torch.empty_like(weight), torch.empty_like(weight)
            torch.ops.aten.native_batch_norm.out(
                *(x_v, weight, bias, *running[:2], True, running[2], norm.eps),
                out=y_v,
                save_mean=mean,
                save_invstd=invstd,
            )
            statistics += [mean, invstd]
        ctx.save_for_backward(x, weight, *statistics)
        ctx.eps = norm.eps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *statistics = ctx.saved_tensors
        views = len(statistics) // 2
        mask = [ctx.needs_input_grad[0], True, True]
        if x.dtype != torch.float32 and x.shape[-2:] == (1, 1) and x.is_contiguous():
            # Of maps of one pixel strides may differ though the memory is the same, and PyTorch's fast kernel
            # takes equal ones alone. In fp32 it gives other last bits than the one that it takes so far.
            dy = dy.contiguous().as_strided(x.shape, x.stride())
        dx, dw, db = zip(
            *(
                torch.ops.aten.native_batch_norm_backward(
                    *(dy_v, x_v, weight, None, None, mean, invstd, True, ctx.eps, mask)
                )
                for dy_v, x_v, mean, invstd in zip(
                    dy.chunk(views), x.chunk(views), statistics[::2], statistics[1::2], strict=True
                )
            ),
            strict=True,
        )
        return torch.cat(dx) if mask[0] else None, _last_first(dw), _last_first(db), None


def _last_first(gradients: Sequence[Tensor]) -> Tensor:
    """Their sum in the order in which autograd adds them up, so that it is the same to the last bit."""
    return functools.reduce(torch.add, reversed(gradients))


@contextlib.contextmanager
def without_updates(*modules: nn.Module) -> Iterator[None]:
    """Within this context the batch norms of networks use statistics of the batch and keep none of them."""
    norms = [norm for module in modules for norm in module.modules() if isinstance(norm, NORMS)]
    before = [norm.track_running_stats for norm in norms]
    running = [(norm.running_mean, norm.running_var) for norm in norms]
    try:
        for norm in norms:
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = None
        yield
    finally:
        for norm, tracked, (mean, var) in zip(norms, before, running, strict=True):
            norm.track_running_stats = tracked
            norm.running_mean, norm.running_var = mean, var


def by_views(net: nn.Module) -> nn.Module:
    """Let the batch norms of a network know views; weights and names stay as they are."""
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = ViewBatchNorm2d
    return net
