"""Where the positions of a convolution's output meet pixels and kernel.

S pixels height and width of the maps, O of the output, T the kernel's.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple


class Position(NamedTuple):
    """Where one position of the output meets pixels and kernel; slices of rows and columns of each."""

    row: int
    column: int
    pixels: tuple[slice, slice]
    kernel: tuple[slice, slice]


def output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """O; 0 or less where the kernel is larger than the maps and their padding."""
    return (size + 2 * padding - kernel) // stride + 1


@functools.cache
def positions(size: int, kernel: int, stride: int, padding: int) -> Sequence[Position]:
    """The positions of the output, row by row."""
    meetings = []
    for position in range(output_size(size, kernel, stride, padding)):
        begin = position * stride - padding
        first = max(0, -begin)
        last = max(first, min(kernel, size - begin))
        meetings.append((slice(begin + first, begin + last), slice(first, last)))
    return tuple(
        Position(row, column, (pixel_rows, pixel_columns), (kernel_rows, kernel_columns))
        for row, (pixel_rows, kernel_rows) in enumerate(meetings)
        for column, (pixel_columns, kernel_columns) in enumerate(meetings)
    )


@functools.cache
def meeting(size: int, kernel: int, stride: int, padding: int) -> Sequence[tuple[slice, list[int]]]:
    """For each row of pixels: the rows of the output that meet it, and with which row of the kernel."""
    out = output_size(size, kernel, stride, padding)
    found = []
    for pixel in range(size):
        first = max(0, -(-(pixel + padding - kernel + 1) // stride))
        last = min(out - 1, (pixel + padding) // stride)
        rows = [pixel + padding - row * stride for row in range(first, last + 1)]
        found.append((slice(first, last + 1), rows))
    return tuple(found)
