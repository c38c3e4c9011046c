"""What the project does to the process that trains."""

import platform

from trainables.machine import keep_freed_memory


def test_glibc_keeps_freed_memory() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
