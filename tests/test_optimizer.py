"""SGD is PyTorch's, without its compiler."""

import subprocess
import sys

import pytest
import torch

from trainables.fast.optimizer import SGD


def start(seed: int = 0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    maps = torch.randn(4, 3, 2, 2, generator=g, dtype=torch.float64).to(memory_format=torch.channels_last)
    return [torch.randn(5, 3, generator=g, dtype=torch.float64), maps, torch.randn(2, generator=g).double()]


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_it_is_torch_optim_sgd(momentum: float) -> None:
    ours, theirs = ([p.clone().requires_grad_() for p in start()] for _ in range(2))
    optimizer = SGD(ours, momentum=momentum, weight_decay=1e-2)
    reference = torch.optim.SGD(theirs, lr=0.1, momentum=momentum, weight_decay=1e-2, foreach=False)
    optimizer.step(0.1)  # there is nothing to do yet
    for step, lr in enumerate([0.1, 0.1, 0.05, 0.2, 0.0]):
        having = 2 if step < 2 else 3  # the last parameter has no gradient at first
        for parameters in (ours, theirs):
            loss = sum((p.sin() ** 2 * (step + 1)).sum() for p in parameters[:having])
            loss.backward()
        optimizer.step(lr)
        reference.param_groups[0]["lr"] = lr
        reference.step()
        optimizer.zero_grad()
        reference.zero_grad()
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)
    assert all(p.grad is None for p in ours)
    if momentum:
        buffers = [reference.state[q]["momentum_buffer"] for q in theirs]
        torch.testing.assert_close(optimizer.momentum_buffers, buffers, rtol=1e-14, atol=1e-14)
    else:
        assert optimizer.momentum_buffers == [None] * 3


def test_gradients_and_momentum_in_another_memory_order_are_the_same() -> None:
    """The fused kernel knows no strides."""
    ours, others = ([p.clone().requires_grad_() for p in start()] for _ in range(2))
    for parameters in (ours, others):
        for parameter, gradient in zip(parameters, start(1), strict=True):
            parameter.grad = gradient
    others[0].grad = start(1)[0].T.contiguous().T
    others[1].grad = start(1)[1].contiguous()
    optimizers = [SGD(parameters, momentum=0.9, weight_decay=1e-2) for parameters in (ours, others)]
    optimizers[0].load(start(2))
    momentum = start(2)
    optimizers[1].load([momentum[0].T.contiguous().T, momentum[1].contiguous(), momentum[2]])
    for optimizer in optimizers:
        optimizer.step(0.1)
    torch.testing.assert_close(ours, others, rtol=0, atol=0)


def test_a_parameter_with_gaps_in_memory_is_refused() -> None:
    """The fused kernel goes through memory, and would change what lies between."""
    whole = torch.zeros(4, 6)
    SGD([whole, whole.T, whole[:2], whole[:, :0], whole[:1, ::6]], momentum=0.9, weight_decay=0.0)
    for gaps in (whole[:, :4], whole[::2], whole.T[:3], torch.zeros(3).expand(2, 3)):
        with pytest.raises(ValueError, match=r"^a parameter of shape .* has gaps in memory$"):
            SGD([gaps], momentum=0.9, weight_decay=0.0)


def test_nothing_is_copied_for_the_fused_kernel() -> None:
    """It copies what is in channels_last: half of its time in a ResNet-18."""
    from torch.profiler import ProfilerActivity, profile

    weight = torch.zeros(8, 4, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    one_by_one = torch.zeros(8, 4, 1, 1).to(memory_format=torch.channels_last).requires_grad_()
    optimizer = SGD([weight, one_by_one], momentum=0.9, weight_decay=1e-2)
    weight.grad = torch.ones(8, 4, 3, 3).to(memory_format=torch.channels_last)
    one_by_one.grad = torch.ones(8, 4, 1, 1)
    optimizer.step(0.1)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        optimizer.step(0.1)
    names = {event.name for event in found.events()}
    assert "aten::_fused_sgd_" in names
    assert not {"aten::copy_", "aten::clone"} & names


def test_training_does_not_import_the_compiler(tiny, data_dir):
    code = (
        "import sys; from pathlib import Path; from trainables.train import train;"
        "from trainables.trial import TrialConfig;"
        f"history = train(TrialConfig.from_params({tiny().to_params()}), Path(sys.argv[1])).history;"
        "print(len(history), 'torch._dynamo' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(data_dir)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
