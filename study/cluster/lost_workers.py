"""Why a worker was lost, from what Ray and the kernel say of it."""

import contextlib
import os
import re
from pathlib import Path

FAILURE = re.compile(r"^Failure # \d+ .*$", re.MULTILINE)
"""Begins each failure in the file in which Tune gathers those of a trial."""
MONITOR = re.compile(r"Memory on the node .* was (\S+) used / (\S+) limit")
"""What Ray says of a worker that its own memory monitor has ended."""
IMPORT = re.compile(r"^\s*((?:ModuleNotFoundError|ImportError): .+)$", re.MULTILINE)
KILLED = re.compile(r"worker process has died|worker died|SYSTEM_ERROR|ActorDiedError")
NODE_LOST = re.compile(r"its node has died|raylet died|node was terminated", re.IGNORECASE)
PROCESS = re.compile(r"\bpid(?:: |=)(\d+)")
ADDRESS = re.compile(r"\bip(?:: |=)([0-9a-fA-F.:]+)")
LESS = "fewer trials at once (--max-concurrent), or a smaller batch_size, take less"
KERNEL_LOG, KERNEL_COUNTS = Path("/dev/kmsg"), Path("/proc/vmstat")


class KernelKills:
    """What the kernel of this machine has killed for lack of memory since the study began."""

    def __init__(self, address: str | None = None) -> None:
        """Count from now on; `address` is what Ray calls this machine by (None: it is the only one)."""
        self.address = address
        self._before = _count()

    def since(self) -> int:
        """How many processes it has killed since the last call."""
        before, self._before = self._before, _count()
        return self._before - before


def why_lost(text: str, kills: KernelKills) -> str:
    """Why a worker was lost, in a line for people.

    Args:
        text: what Tune has gathered of the trial's failures; the last one counts.
        kills: of the driver's machine, on which the worker may have been.
    """
    last = last_failure(text)
    killed = kills.since()
    if found := MONITOR.search(last):
        used, limit = found.groups()
        return f"its process was ended for lack of memory: {used} of {limit} were in use; {LESS}"
    if NODE_LOST.search(last):
        return "its node was lost"
    if not KILLED.search(last):
        return (last.splitlines() or ["its process was lost"])[-1]
    process, address = PROCESS.search(last), ADDRESS.search(last)
    here = kills.address is None or (address and address[1] == kills.address)
    if here and process and (taken := _killed_with(int(process[1]))):
        return (
            f"the kernel killed its process for lack of memory, of which it had {taken / 1e9:.1f} GB; {LESS}"
        )
    if here and killed > 0:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return (
            "its process was lost while the kernel of this machine killed one for lack of memory (there are"
            f" {memory / 1e9:.1f} GB, or less in a container); {LESS}"
        )
    return f"its process died; if `dmesg` on its node says `Out of memory`, {LESS}"


def last_failure(text: str) -> str:
    """The last of the failures that Tune has gathered."""
    return FAILURE.split(text)[-1].strip()


def missing_module(text: str) -> tuple[str, str] | None:
    """The error of a worker that cannot import the code, and its node's address; None: it was another."""
    last = last_failure(text)
    found, address = IMPORT.findall(last), ADDRESS.search(last)
    return (found[-1], address[1]) if found and address else None


def _count() -> int:
    """Processes that the kernel has killed for lack of memory since it started; 0 where it does not say."""
    with contextlib.suppress(OSError, StopIteration):
        lines = KERNEL_COUNTS.read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("oom_kill ")))
    return 0


def _killed_with(process: int) -> int | None:
    """Bytes of a process that the kernel killed for lack of memory; None: it did not, or does not say."""
    wanted = re.compile(rf"ut of memory: Killed process {process} .*?anon-rss:(\d+)kB")
    with contextlib.suppress(OSError):
        log = os.open(KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK)
        try:
            while record := _record(log):  # until there are no more: BlockingIOError
                if found := wanted.search(record):
                    return 1024 * int(found[1])
        finally:
            os.close(log)
    return None


def _record(log: int) -> str:
    """The next record of the kernel's log."""
    while True:
        try:
            return os.read(log, 8192).decode(errors="replace")
        except BrokenPipeError:  # overwritten meanwhile: the next one follows
            continue
