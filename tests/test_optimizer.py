"""SGD is PyTorch's, without its compiler."""

import subprocess
import sys

import torch

from trainables.optimizer import SGD


def test_it_is_torch_optim_sgd_to_the_last_bit() -> None:
    g = torch.Generator().manual_seed(0)
    start = [torch.randn(4, 3, generator=g), torch.randn(5, generator=g), torch.randn(2, generator=g)]
    ours = [p.clone().requires_grad_() for p in start]
    theirs = [p.clone().requires_grad_() for p in start]
    optimizer = SGD(ours, momentum=0.9, weight_decay=1e-2)
    reference = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=1e-2)
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
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=0)
    assert all(p.grad is None for p in ours)
    for buffer, q in zip(optimizer.momentum_buffers, theirs, strict=True):
        assert buffer is not None
        torch.testing.assert_close(buffer, reference.state[q]["momentum_buffer"], rtol=0, atol=0)


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
