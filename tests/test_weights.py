"""The kept weights of a trial, and what is measured from them again."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load as load_arrays

from trainables import data, weights
from trainables.evaluate import FORMULAS, FROM_PREDICTIONS
from trainables.machine import settle
from trainables.metrics import METRICS, PREDICTIONS, WEIGHTS
from trainables.models import build
from trainables.remeasure import remeasure
from trainables.storage.bundles import Bundle, TrialResult, read_bundle, write_bundle
from trainables.storage.filesystem import Storage
from trainables.train import train
from trainables.trial import TrialConfig

Tiny = Callable[..., TrialConfig]
TRIALS = pytest.mark.parametrize(
    "changes",
    [{}, {"method": "ce", "data_seed": 3}, {"gamma": 0, "val_fraction": 0}],
    ids=["siamese", "ce", "siamese-0"],
)


@pytest.fixture(scope="module")
def kept(tiny: Tiny, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple]:
    """A trial trained with its weights kept: config, result, and the folder with its artifacts."""
    made: dict[TrialConfig, tuple[TrialConfig, TrialResult, Path]] = {}

    def make(**changes: Any) -> tuple[TrialConfig, TrialResult, Path]:
        config = tiny(**changes)
        if config not in made:
            folder = tmp_path_factory.mktemp("kept")
            result = train(config, data_dir, keep_weights=True)
            for name, content in result.artifacts.items():
                (folder / name).write_bytes(content)
            made[config] = config, result, folder
        return made[config]

    return make


@TRIALS
def test_what_is_measured_again_equals_what_evaluation_logged(
    changes: dict[str, Any], kept: Callable[..., tuple], data_dir: Path
) -> None:
    config, result, folder = kept(**changes)
    names = [name for name in result.metrics if not name.endswith("_seconds")]
    torch.manual_seed(7)
    again = remeasure(config, folder / WEIGHTS, FORMULAS, data_dir=data_dir, device="cpu", threads=1)
    assert again == {name: result.metrics[name] for name in names}


def test_predictions_give_some_metrics_without_data(kept: Callable[..., tuple], tmp_path: Path) -> None:
    config, result, folder = kept()
    again = remeasure(
        config, folder / PREDICTIONS, FROM_PREDICTIONS, data_dir=tmp_path, device="cpu", threads=1
    )
    assert again == {name: result.metrics[name] for name in FROM_PREDICTIONS}
    (tmp_path / PREDICTIONS).write_bytes(result.artifacts[PREDICTIONS][:1000])
    with pytest.raises(ValueError, match=r"^predictions\.npz is damaged: "):
        remeasure(config, tmp_path / PREDICTIONS, ["test_acc"], data_dir=tmp_path, device="cpu", threads=1)


def test_every_metric_says_what_it_is_measured_from() -> None:
    assert {name for name, metric in METRICS.items() if WEIGHTS in metric.measured_from} == FORMULAS.keys()
    assert {
        name for name, metric in METRICS.items() if PREDICTIONS in metric.measured_from
    } == FROM_PREDICTIONS.keys()
    assert {name for name, metric in METRICS.items() if not metric.measured_from} == {
        name for name, metric in METRICS.items() if metric.table == "cost"
    }
    assert METRICS["train_seconds"].table == "cost"


def test_weights_are_kept_on_request_alone(
    trained: Callable[..., TrialResult], kept: Callable[..., tuple]
) -> None:
    without, (_, with_weights, _) = trained(), kept()
    assert with_weights.artifacts.keys() - without.artifacts.keys() == {WEIGHTS}
    names = [name for name in without.metrics if not name.endswith("_seconds")]
    assert all(without.metrics[name] == with_weights.metrics[name] for name in names)


def test_any_program_can_read_them(kept: Callable[..., tuple], digits: data.Dataset) -> None:
    """The logits of a clean image by NumPy alone, from the classifier, are those of the network."""
    config, _, folder = kept()
    arrays = load_arrays((folder / WEIGHTS).read_bytes())
    net = weights.load(folder / WEIGHTS, config, 10).eval()
    assert {name: tensor.shape for name, tensor in net.state_dict().items()} == {
        name: array.shape for name, array in arrays.items()
    }
    h = torch.from_numpy(np.load(folder / "embeddings.npz")["test_h"]).float()
    expected = h.numpy() @ arrays["classifier.weight"].T + arrays["classifier.bias"]
    np.testing.assert_allclose(net.logits(h).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_every_tensor_comes_back_as_it_was(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny()
    net = build(config, 10)  # its convolutions lie in memory as channels_last
    for tensor in net.state_dict().values():  # parameters and buffers
        tensor.add_(torch.arange(tensor.numel()).view(tensor.shape) % 7)
    (tmp_path / WEIGHTS).write_bytes(weights.pack(config, net))
    loaded = weights.load(tmp_path / WEIGHTS, config, 10)
    assert loaded.state_dict().keys() == net.state_dict().keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]), name
        assert tensor.stride() == net.state_dict()[name].stride(), name


@TRIALS
def test_their_size_is_known_before_they_are(changes: dict[str, Any], kept: Callable[..., tuple]) -> None:
    config, result, _ = kept(**changes)
    content = result.artifacts[WEIGHTS]
    header = 8 + int.from_bytes(content[:8], "little")  # https://huggingface.co/docs/safetensors
    assert weights.size(config, 10) == len(content) - header
    has_projector = any(name.startswith("projector.") for name in load_arrays(content))
    assert has_projector == bool(config.gamma)


def test_sizes_are_told_to_a_command_line(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    regnet = tiny(backbone="regnet_y_400mf", method="ce")  # which the meta device cannot make
    asked = [(tiny().to_params(), 10), (regnet.to_params(), 7)]
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"asked": asked, "files": []})))
    assert weights.main() == 0
    assert json.loads(capsys.readouterr().out) == [
        weights.size(tiny(), 10),
        sum(t.nbytes for n, t in build(regnet, 7).state_dict().items() if not n.startswith("projector.")),
    ]


def test_an_untrained_projector_is_that_of_the_seed(kept: Callable[..., tuple], tiny: Tiny) -> None:
    config, _, folder = kept(gamma=0, val_fraction=0)
    loaded, initial = weights.load(folder / WEIGHTS, config, 10), build(config, 10)
    assert torch.equal(loaded.projector[0].weight, initial.projector[0].weight)
    assert not torch.equal(loaded.classifier.weight, initial.classifier.weight)


def test_what_is_damaged_or_of_another_network_is_told(
    kept: Callable[..., tuple], tiny: Tiny, tmp_path: Path
) -> None:
    config, result, folder = kept()
    (tmp_path / WEIGHTS).write_bytes(result.artifacts[WEIGHTS][:-1])
    with pytest.raises(weights.DamagedWeights, match=r"^weights\.safetensors is damaged or of another netw"):
        weights.load(tmp_path / WEIGHTS, config, 10)
    for other in (tiny(feature_dim=17), tiny(backbone="resnet18"), tiny(method="ce")):
        with pytest.raises(weights.DamagedWeights, match=r"another network: (Error|its tensors have other)"):
            weights.load(folder / WEIGHTS, other, 10)


def test_they_travel_in_the_bundle(kept: Callable[..., tuple], tmp_path: Path) -> None:
    config, result, _ = kept()
    write_bundle(Storage(tmp_path), Bundle(config=config, result=result, tags={}))
    assert read_bundle(Storage(tmp_path), config.key).result.artifacts == result.artifacts


def test_fp32_is_set_back_before_measuring() -> None:
    torch.set_float32_matmul_precision("medium")
    settle(1)
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32
