"""What is kept of a network's outputs, as arrays of `predictions.npz` and `embeddings.npz`.

Shapes: N images, n of them with features, D dimensions of features, K classes.
"""

import io
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from trainables.datasets.splits import Indices, Labels


def of_predictions(logits: Tensor, suffix: str) -> dict[str, np.ndarray]:
    """Predicted classes (N,), their probabilities (N,) and logits (N, K) by name, which ends in `suffix`."""
    probability, predicted = logits.softmax(1).max(1)
    return {
        f"predicted{suffix}": predicted.numpy(),
        f"probability{suffix}": probability.numpy(),
        f"logits{suffix}": relative_logits(logits),
    }


def relative_logits(logits: Tensor) -> np.ndarray:
    """Logits (N, K) less the image's largest, as float16: probabilities stay what they are.

    Rounding then leaves the predicted class as it is, with 0, and no logit is too large for float16. Those
    below -65,504 become that.
    """
    relative = logits - logits.amax(1, keepdim=True)
    return relative.clamp_min(torch.finfo(torch.float16).min).half().numpy()


def of_features(split: str, h: Tensor, labels: Labels, indices: Indices) -> dict[str, np.ndarray]:
    """Features (n, D) of some images of a split, as float16, with their labels and indices (n,) by name.

    `labels` (N,) are those of the whole split.
    """
    return {f"{split}_h": h.half().numpy(), f"{split}_labels": labels[indices], f"{split}_index": indices}


def npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of an uncompressed `.npz` file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes a bool among the keywords
    return buffer.getvalue()
