"""Steps that are captured once and replayed, on a stand-in for a GPU's graphs: same function, same memory."""

import contextlib
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainables import step as step_module
from trainables import train as train_module
from trainables.catalogue import TERMS
from trainables.fast.optimizer import SGD
from trainables.graph import WARM_UP, cuda_graph
from trainables.models import SiameseNet, build
from trainables.step import Inputs, Step
from trainables.train import train
from trainables.trial import TrialConfig

Tiny = Callable[..., TrialConfig]
Trained = Callable[..., tuple[list[dict[str, float]], dict[str, Tensor]]]
STEPS = {"train_size": 100, "batch_size": 10, "epochs": 2, "val_fraction": 0, "lr_schedule": "cosine"}
"""Two epochs of ten steps, at a learning rate that each step changes."""
ALL = {"augmentations": ("rrc", "hflip", "grayscale", "solarize"), "lr": 0.03}


class StandIn:
    """As a graph: records nothing but what to repeat, and runs nothing while it does."""

    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            self.replays += 1
            run()

        return replay


@pytest.fixture
def trained(tiny: Tiny, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """The history of a trial, but for its times, and the state of its network; nothing is evaluated."""
    nets: list[SiameseNet] = []

    def remembering(*arguments: Any) -> SiameseNet:
        nets.append(build(*arguments))
        return nets[-1]

    monkeypatch.setattr(train_module, "build", remembering)
    monkeypatch.setattr(train_module, "evaluate", lambda *arguments: ({}, {}))

    def run(changes: dict[str, Any], **options: Any) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
        result = train(tiny(**STEPS, **ALL, **changes), data_dir, **options)
        names = ("epoch", "lr", "train/loss", "train/ce", "train/acc")
        rows = [{name: row[name] for name in names if name in row} for row in result.history]
        return rows, {name: value.cpu() for name, value in nets[-1].state_dict().items()}

    return run


KINDS: dict[str, dict[str, Any]] = {
    "ce": {"method": "ce", "momentum": 0.0},
    "siamese": {},
    "target network": {"term": "byol", "target_momentum": 0.9},
    "mixed images": {"term": "mixed_barlow_twins", "gamma": 1e-4},  # small, and still to be seen
    "fixmatch": {"method": "fixmatch", "gamma": 1.0},
    "bf16": {"precision": "bf16", "views": "asymmetric"},
}


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_replayed_steps_give_the_same_bits(changes: dict[str, Any], trained: Trained) -> None:
    """Twenty steps: augmentation, schedule and the boundary of two epochs included."""
    stand_in, told = StandIn(), []
    rows, state = trained(changes)
    replayed_rows, replayed_state = trained(changes, capture=stand_in, on_note=told.append)
    assert told == []
    assert stand_in.replays == 20 - WARM_UP
    assert replayed_rows == rows
    assert replayed_state.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(replayed_state[name], value), name
    assert rows[0]["lr"] != rows[1]["lr"]


def fails(run: Callable[[], None]) -> Callable[[], None]:
    try:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore of it")
    finally:
        raise RuntimeError("operation failed due to a previous error during capture")


def forgets(run: Callable[[], None]) -> Callable[[], None]:
    return lambda: None


@pytest.mark.parametrize(
    ("capture", "reason"),
    [
        (fails, "CUDA error: operation not permitted when stream is capturing"),
        (forgets, "a replayed step had another result"),
    ],
)
def test_a_step_that_cannot_be_replayed_runs_without(
    capture: Callable[[Callable[[], None]], Callable[[], None]], reason: str, trained: Trained
) -> None:
    """The same bits, and a line that says so, once."""
    told: list[str] = []
    changes = KINDS["target network"]
    rows, state = trained(changes, capture=capture, on_note=told.append)
    assert told == [f"its steps are not replayed as CUDA graphs: {reason}"]
    expected_rows, expected = trained(changes)
    assert rows == expected_rows
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_what_a_failed_capture_held_is_free_before_training_goes_on(trained: Trained) -> None:
    """On a share of a GPU there may be no room for its activations beside those of the next step."""

    class Graph:
        pass

    graphs: list[weakref.ref[Graph]] = []

    def fails_late(run: Callable[[], None]) -> Callable[[], None]:
        graph = Graph()
        graphs.append(weakref.ref(graph))
        run()
        raise RuntimeError("no more memory")

    told: list[object] = []
    trained({}, capture=fails_late, on_note=lambda _: told.append(graphs[0]()))
    assert told == [None]


PARTS: dict[str, tuple[str, Callable[[Any], list[Tensor]]]] = {
    "images": ("target network", lambda inputs: [inputs.images]),
    "targets": ("target network", lambda inputs: [inputs.targets]),
    "lr": ("target network", lambda inputs: [inputs.lr]),
    "target_keeps": ("target network", lambda inputs: [inputs.target_keeps]),
    "first draws": ("siamese", lambda inputs: [inputs.draws[0].u]),
    "second draws": ("bf16", lambda inputs: [inputs.draws[1].u]),
    "mixing": ("mixed images", lambda inputs: [inputs.mixing.alpha, inputs.mixing.order]),
    "how images are mixed": ("mixed images", lambda inputs: [inputs.mixing.alpha]),
}


@pytest.mark.parametrize(("kind", "parts"), PARTS.values(), ids=PARTS)
def test_what_a_graph_would_not_read_again_is_seen(
    kind: str,
    parts: Callable[[Any], list[Tensor]],
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if that had been a part of the graph, with the value that it had when the graph was captured."""

    def freezes(run: Callable[[], None]) -> Callable[[], None]:
        buffers: list[Inputs] = []
        with monkeypatch.context() as patch:
            patch.setattr(Step, "run", lambda self, inputs: buffers.append(inputs))
            run()
        frozen = parts(buffers[0])
        kept = [buffer.clone() for buffer in frozen]

        def replay() -> None:
            for buffer, value in zip(frozen, kept, strict=True):
                buffer.copy_(value)
            run()

        return replay

    told: list[str] = []
    trained(KINDS[kind], capture=freezes, on_note=told.append)
    assert told == ["its steps are not replayed as CUDA graphs: a replayed step had another result"]


class OnTheDevice(TorchDispatchMode):
    """Sees every operation of a step; the meta device stands for a GPU, and raises where it is read.

    Attributes:
        elsewhere: operations that had to do with a tensor on the CPU, which a graph would not repeat.
    """

    def __init__(self) -> None:
        super().__init__()
        self.elsewhere: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name == "_fused_sgd_":  # these two have kernels on GPUs, and none on the meta device
            out = None
        elif name == "grid_sampler_2d":
            out = torch.empty_like(args[0])
        else:
            out = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        self.elsewhere += [name for tensor in tensors if tensor.device.type != "meta"]
        return out


@pytest.fixture
def watched(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What the second step of `tiny(**changes)` has to do with the CPU."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # knows no meta device

    def elsewhere(**changes: Any) -> list[str]:
        config, meta = tiny(**ALL, **changes), torch.device("meta")
        net = build(config, 10).to(meta).train()
        optimizer = SGD(net.parameters(), momentum=0.9, weight_decay=0.1)
        step = Step.of(config, net, optimizer, (0.5,) * 3, (0.2,) * 3)
        images, targets = torch.zeros(25, 3, 32, 32, dtype=torch.uint8), torch.zeros(25, dtype=torch.int64)
        inputs = step.inputs(images, targets, epoch=1, number=0, steps=2).buffers(meta)
        with OnTheDevice():
            step.run(inputs)
        with OnTheDevice() as seen, monkeypatch.context() as patch:
            for owner, name in ((torch, "tensor"), (torch, "as_tensor"), (Tensor, "new_tensor")):
                patch.setattr(owner, name, lambda *_, **__: pytest.fail("sends numbers"))
            step.run(inputs)
        return seen.elsewhere

    return elsewhere


@pytest.mark.parametrize("term", TERMS)
def test_a_step_neither_reads_the_device_nor_sends_it_anything(
    term: str, watched: Callable[..., list[str]]
) -> None:
    assert watched(term=term, projector="mlp_bn") == []


def test_other_methods_neither_read_nor_send(watched: Callable[..., list[str]]) -> None:
    assert watched(method="ce", gamma=None) == watched(method="fixmatch", gamma=1.0) == []


def test_what_is_read_or_sent_would_be_seen(
    watched: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_module, "normalise", lambda x, mean, _: x - x.new_tensor(mean)[:, None, None])
    with pytest.raises(pytest.fail.Exception, match="sends numbers"):
        watched()
    on_the_cpu = torch.ones(())
    monkeypatch.setattr(step_module, "normalise", lambda x, *_: x - on_the_cpu)
    assert watched() == ["sub"] * 2
    monkeypatch.setattr(step_module, "normalise", lambda x, *_: x - x.mean().item())
    with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta tensors"):
        watched()


@pytest.mark.gpu
@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_graphs_on_a_gpu(changes: dict[str, Any], trained: Trained) -> None:
    told: list[str] = []
    rows, state = trained(changes, device="cuda")
    replayed_rows, replayed = trained(changes, device="cuda", capture=cuda_graph, on_note=told.append)
    assert told == []
    for row, expected in zip(replayed_rows, rows, strict=True):
        assert row == pytest.approx(expected, rel=0.01, abs=0.02)
    for name, value in state.items():
        if value.is_floating_point():
            torch.testing.assert_close(replayed[name], value, rtol=0.02, atol=0.01)


@pytest.mark.gpu
def test_dropout_in_a_graph_is_that_of_the_step(trained: Trained) -> None:
    """VGG-16 drops out: its masks follow from the seed of each step, replayed or not."""
    told: list[str] = []
    changes = {"backbone": "vgg16", "dataset": "digits"}
    rows, _ = trained(changes, device="cuda")
    replayed, _ = trained(changes, device="cuda", capture=cuda_graph, on_note=told.append)
    assert told == []
    for row, expected in zip(replayed, rows, strict=True):
        assert row == pytest.approx(expected, rel=0.01, abs=0.02)
