"""The final weights of a trial as safetensors: packed after training, loaded to measure again, counted ahead.

As a script it counts the bytes: the command line starts it as a process, so that it need not import PyTorch.
It reads a JSON object from standard input (`asked`, params and number of classes of each trial; `files`, see
`OwnFile.shipped`) and prints the sizes as JSON.
"""

import contextlib
import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from trainables.extensions.files import load_shipped
from trainables.metrics import WEIGHTS
from trainables.models import SiameseNet, build, without_storage
from trainables.redact import first_line
from trainables.trial import TrialConfig


class DamagedWeights(ValueError):
    """The file does not hold the weights of this trial's network."""


def pack(config: TrialConfig, net: nn.Module) -> bytes:
    """The trained weights and buffers of a trial's network as the content of a safetensors file."""
    from safetensors.torch import save

    # Copies: the format knows neither channels_last nor memory that two tensors share.
    return save(
        {
            name: tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
            for name, tensor in _trained(config, net).items()
        }
    )


def load(file: Path, config: TrialConfig, num_classes: int) -> SiameseNet:
    """The network of a trial with the weights in a file that `pack` made, on the CPU.

    Raises:
        DamagedWeights: it is cut short, or of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    net = build(config, num_classes)
    try:
        state = load_file(file)
        if state.keys() != _trained(config, net).keys():
            raise RuntimeError("its tensors have other names")
        net.load_state_dict(state, strict=False)
    except (SafetensorError, RuntimeError) as error:  # RuntimeError: also of other shapes
        raise DamagedWeights(f"{WEIGHTS} is damaged or of another network: {first_line(error)}") from error
    return net


def size(config: TrialConfig, num_classes: int) -> int:
    """Bytes of the tensors that `pack` keeps, without making any where that is possible."""
    net = without_storage(lambda: build(config, num_classes))
    return sum(tensor.nbytes for tensor in _trained(config, net).values())


def _trained(config: TrialConfig, net: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers of what is measured: no projector without training, no predictor, no target."""
    state: dict[str, Tensor] = net.state_dict()
    used = ("backbone.", "classifier.", *(("projector.",) if config.uses("embedding_dim") else ()))
    return {name: tensor for name, tensor in state.items() if name.startswith(used)}


def main() -> int:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # what a file of your own prints is no part of the answer
        load_shipped(request["files"])
        sizes = [size(TrialConfig.from_params(params), classes) for params, classes in request["asked"]]
    print(json.dumps(sizes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
