"""Batch normalisation of several views in one batch, each by its own statistics.

One batch of all views keeps a device busier than one view after the other, and the gradient of a weight is
summed over views within a matrix product. But statistics over all views would be another method: batch norm
has to meet one view at a time, and here it does.

Shapes: V views, B images a view, C channels, S pixels height and width.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

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
        one_view = super().forward
        if not self.training or self.views == 1:
            return one_view(input)
        views = input.chunk(self.views)
        counted = [one_view(view) for view in views[: self.counted]]
        if len(counted) == len(views):
            return torch.cat(counted)
        with without_updates(self):
            return torch.cat([*counted, *(one_view(view) for view in views[self.counted :])])


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
