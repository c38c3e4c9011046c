"""Several hosts on one machine: network namespaces with addresses, processes and folders of their own."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

RAY = Path(sys.executable).with_name("ray")
IP = "/usr/sbin/ip"


class Host:
    """A host of the network.

    Attributes:
        name: of its network namespace.
        address: of the host.
        private: folders that it has for itself alone: they are empty there.
        environment: of its processes.
    """

    def __init__(
        self, name: str, address: str, *, private: Sequence[Path] = (), environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.address = address
        self.private = [Path(tempfile.gettempdir(), "ray"), *private]
        self.environment = {**os.environ, **environment}
        self._ray: subprocess.Popen[str] | None = None

    def command(self, *words: str | Path) -> list[str]:
        """A command as it is run on this host."""
        mounts = "".join(f"mount -t tmpfs tmpfs {shlex.quote(str(folder))} && " for folder in self.private)
        mounts += "mount --bind /dev/null /etc/resolv.conf && "  # nobody answers: each question takes seconds
        inner = f"hostname {self.name} && {mounts}exec {shlex.join(map(str, words))}"
        return [IP, "netns", "exec", self.name, "unshare", "--mount", "--uts", "sh", "-c", inner]

    def enter(self, *words: str | Path, folder: Path = Path("/")) -> list[str]:
        """A command as it is run beside this host's Ray, with the same folders."""
        assert self._ray is not None
        inner = f"cd {shlex.quote(str(folder))} && exec {shlex.join(map(str, words))}"
        return ["nsenter", f"--target={self._ray.pid}", "--mount", "--net", "--uts", "sh", "-c", inner]

    def start_ray(self, *options: str, log: Path) -> None:
        """Start a node; returns at once."""
        for folder in self.private:
            folder.mkdir(parents=True, exist_ok=True)
        words = [RAY, "start", "--block", f"--node-ip-address={self.address}", *options]
        with log.open("a") as output:
            self._ray = subprocess.Popen(
                self.command(*words),
                env=self.environment,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
            )
        self._log = log

    def wait_for_ray(self) -> None:
        """Wait until the node has started."""
        deadline = time.monotonic() + 90
        while "Ray runtime started" not in (text := self._log.read_text()):
            assert time.monotonic() < deadline, text
            assert self._ray is not None
            assert self._ray.poll() is None, text
            time.sleep(0.1)

    def kill(self) -> None:
        """Pull the plug."""
        while pids := subprocess.run(
            [IP, "netns", "pids", self.name], check=True, capture_output=True, text=True
        ).stdout.split():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            if self._ray is not None:
                self._ray.wait()
            time.sleep(0.05)


@contextlib.contextmanager
def network(count: int) -> Iterator[list[tuple[str, str]]]:
    """Names and addresses of `count` hosts that reach each other and nothing else. Takes root."""
    prefix = f"study{uuid.uuid4().hex[:6]}"

    def ip(*words: str) -> None:
        subprocess.run([IP, *words], check=True)

    names: list[str] = []
    try:
        hub = f"{prefix}hub"
        ip("netns", "add", hub)
        names.append(hub)
        ip("-n", hub, "link", "add", "br0", "type", "bridge")
        ip("-n", hub, "link", "set", "br0", "up")
        hosts = []
        for number in range(1, count + 1):
            name, address = f"{prefix}n{number}", f"10.77.0.{number}"
            ip("netns", "add", name)
            names.append(name)
            ip("-n", name, "link", "set", "lo", "up")
            port = f"port{number}"
            ip("link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", port, "netns", hub)
            ip("-n", hub, "link", "set", port, "master", "br0", "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "route", "add", "default", "via", address)  # or nothing says which address is its
            hosts.append((name, address))
        yield hosts
    finally:
        for name in reversed(names):
            subprocess.run([IP, "netns", "del", name], check=False)
