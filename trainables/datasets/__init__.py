"""The built-in datasets: what is known of each before it is read. Standard library only."""

import types
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetInfo:
    """A built-in dataset.

    Attributes:
        unlabelled: whether it has unlabelled training images.
        embedded: whether it comes with an installed package, without a download.
    """

    unlabelled: bool = False
    embedded: bool = False


DATASETS: Mapping[str, DatasetInfo] = types.MappingProxyType(
    {
        "cifar10": DatasetInfo(),
        "stl10": DatasetInfo(unlabelled=True),
        "digits": DatasetInfo(embedded=True),
    }
)
"""By name in `TrialConfig.dataset`; in `sources` is a function of each name that reads it."""
