"""Whether the backbones of a study can run on its images, asked before anything starts.

As a script it tries them: the command line starts it as a process, so that it need not import PyTorch itself.
It reads a JSON object from standard input (`asked`, the arguments of `why_unsupported`; `files`, see
`OwnFile.shipped`) and prints the answers as JSON.
"""

import contextlib
import json
import subprocess
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

from trainables.catalogue import BACKBONES, code_of
from trainables.data import image_size
from trainables.extensions.files import file_of, load_shipped, loaded
from trainables.redact import first_line
from trainables.trial import TrialConfig, nearest

ROOT = Path(__file__).resolve().parents[1]
SAFE_SIZE = 32
"""Every built-in backbone runs on images of this size and larger."""


def check(trials: Iterable[TrialConfig], data_dir: Path) -> None:
    """Raise ValueError for a backbone that does not exist or cannot run at its dataset's image size.

    Built-in backbones at usual sizes are known to run; the others are tried.
    """
    pairs = dict.fromkeys((trial.backbone, trial.feature_dim, trial.dataset) for trial in trials)
    sizes = {dataset: image_size(dataset, data_dir) for dataset in {dataset for *_, dataset in pairs}}
    unknown = [
        (name, width, sizes[dataset])
        for name, width, dataset in pairs
        if name not in BACKBONES or code_of("backbone", name) or sizes[dataset] < SAFE_SIZE
    ]
    if not unknown:
        return
    command = [sys.executable, "-W", "ignore", "-m", "trainables.backbones"]
    request = json.dumps({"asked": unknown, "files": [file.shipped for file in loaded()]})
    done = subprocess.run(command, cwd=ROOT, input=request, check=False, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        names = ", ".join(dict.fromkeys(name for name, *_ in unknown))
        raise ValueError(f"backbone: {names} cannot be tried ({reason})")
    reasons = list(dict.fromkeys(reason for reason in json.loads(done.stdout) if reason))
    if reasons:
        raise ValueError("; ".join(reasons))


def why_unsupported(name: str, feature_dim: int, size: int) -> str | None:
    """Why a backbone cannot be trained on images of `size` x `size` pixels; None if it can.

    Tried on PyTorch's meta device, which computes shapes alone: no weights, no arithmetic.
    """
    import torchvision

    theirs = torchvision.models.list_models(module=torchvision.models)
    own = file_of("backbone", name)
    if own:
        file, item = own
        wrong = "exists already in torchvision; allowed: another name" if name in theirs else None
        try:
            wrong = wrong or _why_not_features(name, feature_dim, size)
        except Exception as error:  # whatever the function raises
            return f"{file.locate(error, item.line)} (backbone {name!r}, images of {size} x {size} pixels)"
        return str(file.error(item.line, f"backbone {name!r} {wrong}")) if wrong else None
    known = sorted({*BACKBONES, *theirs})
    if name not in known:
        return (
            f"backbone: got {name!r}{nearest(name, known)}; allowed: {', '.join(BACKBONES)} or a"
            " classification model of torchvision"
        )
    try:
        wrong = _why_not_features(name, feature_dim, size)
    except Exception as error:  # a network raises anything for images that it is not made for
        wrong = f"cannot run on images of {size} x {size} pixels ({first_line(error)})"
    return f"backbone: {name} {wrong}" if wrong else None


def _why_not_features(name: str, feature_dim: int, size: int) -> str | None:
    """What is wrong with what it gives in training; None if that is a vector of features an image."""
    import torch

    from trainables.models import backbone, without_storage

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how weights will be drawn in later versions
        net = without_storage(lambda: backbone(name, feature_dim))
        h = net.train()(torch.empty(2, 3, size, size, device="meta"))
    if isinstance(h, torch.Tensor) and h.shape == (2, feature_dim):
        return None
    if not isinstance(h, torch.Tensor):
        return "gives more than one vector of features an image in training"
    return f"gives features of shape {tuple(h.shape)} for 2 images; allowed: (2, {feature_dim})"


def main() -> int:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # what a file of your own prints is no part of the answer
        load_shipped(request["files"])
        reasons = [why_unsupported(*arguments) for arguments in request["asked"]]
    print(json.dumps(reasons))
    return 0


if __name__ == "__main__":
    sys.exit(main())
