"""Max-pooling before the ReLU that it follows: the same numbers, a quarter of the work."""

from torch import nn


def pool_first(net: nn.Module) -> nn.Module:
    """Let the stem of a ResNet of torchvision pool before its ReLU; weights and names stay as they are.

    The largest of some numbers is the same before and after ReLU, unless it is negative: then both orders
    give 0, and no gradient.
    """
    from torchvision.models import ResNet

    if type(net) is ResNet and type(net.relu) is nn.ReLU and type(net.maxpool) is nn.MaxPool2d:
        net.maxpool, net.relu = nn.Sequential(net.maxpool, net.relu), nn.Identity()
    return net
