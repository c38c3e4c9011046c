"""Stochastic gradient descent with momentum, as `torch.optim.SGD` computes it."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.optim.sgd import sgd


class SGD:
    """SGD with momentum (no Nesterov) and weight decay on all parameters.

    The arithmetic is PyTorch's own `torch.optim.sgd.sgd`. Its `Optimizer` classes are not used because
    they import PyTorch's compiler, 2.5 s of every fresh worker process (as do torchvision's models, where
    one of them is the backbone).

    Attributes:
        momentum_buffers: one a parameter, None before its first step.
    """

    def __init__(self, parameters: Iterable[Tensor], *, momentum: float, weight_decay: float) -> None:
        """Take the parameters to train; ValueError for one that does not fill its memory, as a slice."""
        self._parameters = list(parameters)
        for parameter in self._parameters:
            if not _is_dense(parameter):
                raise ValueError(f"a parameter of shape {tuple(parameter.shape)} has gaps in memory")
        self._momentum = momentum
        self._weight_decay = weight_decay
        self.momentum_buffers: list[Tensor | None] = [None] * len(self._parameters)

    def load(self, momentum_buffers: Sequence[Tensor | None]) -> None:
        """Go on from these momentum buffers; ValueError where they do not fit the parameters."""
        for parameter, buffer in zip(self._parameters, momentum_buffers, strict=True):
            if buffer is not None and buffer.shape != parameter.shape:
                raise ValueError(f"momentum of shape {tuple(buffer.shape)} for {tuple(parameter.shape)}")
        self.momentum_buffers = [
            None if buffer is None else _laid_out_as(parameter, buffer)
            for parameter, buffer in zip(self._parameters, momentum_buffers, strict=True)
        ]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float | Tensor) -> None:
        """Change each parameter that has a gradient, with learning rate `lr`.

        A tensor is a scalar, on a GPU of fp32, which is read when the kernel runs.
        """
        having = [i for i, parameter in enumerate(self._parameters) if parameter.grad is not None]
        parameters = [self._parameters[i] for i in having]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self.momentum_buffers[i] for i in having]
        if self._momentum:  # from zeros, the first momentum of a weight is its gradient, as PyTorch has it
            buffers = [
                torch.zeros_like(parameter) if buffer is None else buffer
                for parameter, buffer in zip(parameters, buffers, strict=True)
            ]
        gradients = [_laid_out_as(p, gradient) for p, gradient in zip(parameters, gradients, strict=True)]
        # The fused kernel reads and writes each weight once. It goes through memory and knows no strides, and
        # copies what is in channels_last before it begins; a row of numbers it takes as it is.
        sgd(
            [_as_row(parameter) for parameter in parameters],
            [_as_row(gradient) for gradient in gradients],
            [None if buffer is None else _as_row(buffer) for buffer in buffers],
            foreach=False,
            fused=True,
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=cast(float, lr),  # the fused kernel takes both
            dampening=0.0,
            nesterov=False,
            maximize=False,
            grad_scale=None,
            found_inf=None,
        )
        for i, buffer in zip(having, buffers, strict=True):
            self.momentum_buffers[i] = buffer


def _is_dense(values: Tensor) -> bool:
    """Whether the values lie in memory without gaps or overlap, in any order of their dimensions."""
    expected = 1
    for stride, size in sorted(zip(values.stride(), values.shape, strict=True)):
        if size > 1 and values.numel() and stride != expected:
            return False
        expected *= size
    return True


def _laid_out_as(parameter: Tensor, values: Tensor) -> Tensor:
    """The values in the memory order of the parameter: themselves where they are already."""
    sides = zip(values.shape, values.stride(), parameter.stride(), strict=True)
    if all(of_values == of_parameter for size, of_values, of_parameter in sides if size > 1):
        return values
    return torch.empty_like(parameter).copy_(values)


def _as_row(values: Tensor) -> Tensor:
    """Values in channels_last as one row, in the order in which they lie in memory; others as they are."""
    if values.is_contiguous() or not values.is_contiguous(memory_format=torch.channels_last):
        return values
    return values.as_strided((values.numel(),), (1,))
