"""Max-pooling before the ReLU that it follows: the same numbers, a quarter of the work."""

import sys

from torch import nn


def pool_first(net: nn.Module) -> nn.Module:
    """Let the stem of a ResNet of torchvision pool before its ReLU; weights and names stay as they are.

    The largest of some numbers is the same before and after ReLU, unless it is negative: then both orders
    give 0, and no gradient.
    """
    resnets = sys.modules.get("torchvision.models.resnet")  # which takes seconds to import
    if resnets is None or type(net) is not resnets.ResNet:
        return net
    if type(net.relu) is nn.ReLU and type(net.maxpool) is nn.MaxPool2d:
        net.maxpool, net.relu = nn.Sequential(net.maxpool, net.relu), nn.Identity()
    return net
