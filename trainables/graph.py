"""Training steps that a GPU replays from a graph: one launch instead of hundreds.

At 32 x 32 pixels a step is hundreds of kernels of microseconds each, and launching one takes as long. A CUDA
graph records all launches of a step once and repeats them on the same memory, so that what is new in a step
is written into buffers first.

A graph repeats kernels, not Python: whatever a step reads from anywhere else would stay as it was when the
graph was captured. So the first replay is compared with the same step without a graph, from the same state.
If they disagree, or a step cannot be captured, all steps run without one, and the trial says so.
"""

import contextlib
import gc
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from trainables.step import Inputs, Step

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Records what a function does on the device, and returns what repeats it."""
WARM_UP = 3
"""Steps before a capture, in which libraries choose kernels and take their memory; as PyTorch's documentation
of CUDA graphs has it, in a stream of their own."""
ROUNDING = {"fp32": 1e-4, "bf16": 1e-3}
"""By precision, the share of what a step changes that may differ with a graph, which runs the same kernels.
An input that was not read anew makes more: the mixed images of Mixed Barlow Twins are 0.002 of its term."""
COUNTS = 2.0
"""So many images may be classified otherwise."""
NOISE = 10
"""So many times what the same step differs from itself may differ, too: not all kernels are deterministic."""


def cuda_graph(run: Callable[[], None]) -> Callable[[], None]:
    """Capture a function's work on the current GPU. An error leaves stream and generator as they were."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    state = generator.clone_state()
    try:
        # What measures the use of the GPU, in another thread, must not break a capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            run()
    except BaseException:
        torch.cuda.set_stream(stream)
        with contextlib.suppress(RuntimeError):
            graph.reset()  # gives back the memory that it has taken so far
        generator.graphsafe_set_state(state)
        raise
    replay: Callable[[], None] = graph.replay
    return replay


State = dict[str, list[Tensor]]
"""See `Step.state`."""


class Replayed:
    """A step that is captured after `WARM_UP` calls, and replayed from then on."""

    def __init__(self, step: Step, capture: Capture, tell: Callable[[str], None]) -> None:
        """Capture nothing yet; `tell` is called, once, with the reason why nothing can be replayed."""
        self._step, self._capture, self._tell = step, capture, tell
        self._device = step.sums.device
        self._stream = torch.cuda.Stream() if self._device.type == "cuda" else None
        self._buffers: Inputs | None = None
        self._replay: Callable[[], None] | None = None
        self._warm_up = WARM_UP
        self._possible = True

    def __call__(self, inputs: Inputs) -> None:
        """Train on a batch; draws may be on the CPU still."""
        if self._buffers is None:
            self._buffers = inputs.buffers(self._device)
        if self._replay is None and self._possible and not self._warm_up:
            self._replay = self._captured(inputs)
            return
        inputs.fill(self._buffers)
        if self._warm_up:
            self._warm_up -= 1
            self._run_aside(inputs.seed)
            return
        torch.manual_seed(inputs.seed)
        if self._replay:
            self._replay()
        else:
            self._step.run(self._buffers)

    def _captured(self, inputs: Inputs) -> Callable[[], None] | None:
        """Capture the step and train on a batch with it; None where that is not what it does without."""
        buffers = self._buffers
        assert buffers is not None  # noqa: S101  # only a full one gets here
        inputs.fill(buffers)
        before = _copy(self._step)
        self._run_aside(inputs.seed)
        again = _copy(self._step)
        _restore(self._step, before)
        self._run_aside(inputs.seed)
        expected = _copy(self._step)
        allowed = _allowed(self._step, before, expected, again)
        del again
        _restore(self._step, before)
        self._step.optimizer.zero_grad()
        reason = "a replayed step had another result"
        try:
            # Capturing runs nothing. What it reads now, and not at each replay, will be seen to differ.
            inputs.buffers(self._device).fill(buffers)
            replay = self._capture(lambda: self._step.run(buffers))
            inputs.fill(buffers)
            torch.manual_seed(inputs.seed)
            replay()
            if _agrees(self._step, expected, allowed):
                return replay
            del replay
        except RuntimeError as error:
            reason = _reason(error)
        self._step.optimizer.zero_grad()
        gc.collect()  # the memory of a capture goes with it
        _restore(self._step, expected)
        self._possible = False
        self._tell(f"its steps are not replayed as CUDA graphs: {reason}")
        return None

    def _run_aside(self, seed: int) -> None:
        """The step as it is, on what is in the buffers, in a stream of a GPU that is not the usual one."""
        assert self._buffers is not None  # noqa: S101  # filled before
        torch.manual_seed(seed)
        if self._stream is None:
            self._step.run(self._buffers)
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._step.run(self._buffers)
        torch.cuda.current_stream().wait_stream(self._stream)


def _reason(error: BaseException) -> str:
    """The first line of the error that all others come from: ending a capture that has failed fails, too.

    A function by itself: a variable with an error in the frame that caught it would keep what was captured.
    """
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]


def _copy(step: Step) -> State:
    """The state, on the CPU: a second one may not fit into a share of a GPU."""
    return {
        kind: [tensor.detach().to("cpu", copy=True) for tensor in tensors]
        for kind, tensors in step.state().items()
    }


@torch.no_grad()
def _restore(step: Step, state: State) -> None:
    for kind, tensors in step.state().items():
        for tensor, value in zip(tensors, state[kind], strict=True):
            tensor.copy_(value)


def _allowed(step: Step, before: State, expected: State, again: State) -> dict[str, float]:
    """How far each kind of the state may be from what is expected; the step was done twice before."""
    allowed = {}
    for kind in expected:
        changed = _distance(expected[kind], before[kind])
        noise = NOISE * _distance(again[kind], expected[kind])
        # A step that ends in numbers that are not finite will end the trial, with a graph or without.
        finite = math.isfinite(changed)
        allowed[kind] = ROUNDING[step.config.precision] * changed + noise if finite else math.inf
    # Of two classes with almost equal scores the other one may win.
    allowed["counts"] = max(allowed["counts"], COUNTS)
    return allowed


def _agrees(step: Step, expected: State, allowed: Mapping[str, float]) -> bool:
    """Whether the state is what was expected but for rounding."""
    return all(
        _distance(tensors, expected[kind]) <= allowed[kind] or allowed[kind] == math.inf
        for kind, tensors in step.state().items()
    )


def _distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Between tensors as one vector; the other ones are on the CPU."""
    norms = (
        float(torch.linalg.vector_norm((a.detach().cpu() - b).float(), dtype=torch.float64))
        for a, b in zip(one, other, strict=True)
    )
    return math.sqrt(sum(norm**2 for norm in norms))
