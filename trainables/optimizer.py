"""Stochastic gradient descent with momentum, as `torch.optim.SGD` computes it."""

from collections.abc import Iterable, Sequence

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
        """Take the parameters to train."""
        self._parameters = list(parameters)
        self._momentum = momentum
        self._weight_decay = weight_decay
        self.momentum_buffers: list[Tensor | None] = [None] * len(self._parameters)

    def load(self, momentum_buffers: Sequence[Tensor | None]) -> None:
        """Go on from these momentum buffers; ValueError where they do not fit the parameters."""
        for parameter, buffer in zip(self._parameters, momentum_buffers, strict=True):
            if buffer is not None and buffer.shape != parameter.shape:
                raise ValueError(f"momentum of shape {tuple(buffer.shape)} for {tuple(parameter.shape)}")
        self.momentum_buffers = list(momentum_buffers)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Change each parameter that has a gradient, with learning rate `lr`."""
        having = [i for i, parameter in enumerate(self._parameters) if parameter.grad is not None]
        parameters = [self._parameters[i] for i in having]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self.momentum_buffers[i] for i in having]
        # One call for all tensors spares a GPU its launches; on a CPU each tensor should stay in the cache.
        on_gpu = any(parameter.is_cuda for parameter in parameters)
        sgd(
            parameters,
            gradients,
            buffers,
            foreach=on_gpu,
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        for i, buffer in zip(having, buffers, strict=True):
            self.momentum_buffers[i] = buffer
