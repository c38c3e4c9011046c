"""A proxy before a tracking server that does what bad networks do, by a seed."""

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("drop", "swallow", "late", "slow", "500", "503", "cut", "garbage", "twice", "echo")
"""Of a request or its answer, in this order: not handed on; handed on, without an answer; handed on late;
answered late; an error instead, twice; an answer that ends early; half an answer that calls itself whole; a
request that is handed on twice; an answer that comes twice."""


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"  # connections stay open: an answer that comes twice is read as the next
    server: "Chaos"

    def do_GET(self) -> None:
        self._hand_on()

    def do_POST(self) -> None:
        self._hand_on()

    def do_PUT(self) -> None:
        self._hand_on()

    def do_PATCH(self) -> None:
        self._hand_on()

    def do_DELETE(self) -> None:
        self._hand_on()

    def _hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.next_fault()
        with contextlib.suppress(OSError, HTTPException):  # a client that has given up, a server that is away
            match fault:
                case "drop":
                    self.close_connection = True
                case "500" | "503":
                    self._answer(int(fault), "text/html", b"<h1>no</h1>")
                case _:
                    if fault == "late":
                        time.sleep(self.server.delay)
                    answer = self._ask(body)
                    if fault == "twice":
                        answer = self._ask(body)
                    if fault == "slow":
                        time.sleep(self.server.delay)
                    self._pass_back(fault, *answer)
            return
        self.close_connection = True

    def _ask(self, body: bytes) -> tuple[int, str, bytes]:
        with contextlib.closing(HTTPConnection("127.0.0.1", self.server.behind, timeout=60)) as connection:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            return answer.status, answer.headers.get("Content-Type", "application/json"), answer.read()

    def _pass_back(self, fault: str | None, status: int, kind: str, content: bytes) -> None:
        if fault == "swallow":
            self.close_connection = True
        elif fault == "cut":
            self._answer(status, kind, content[: len(content) // 2], length=len(content))
            self.close_connection = True
        elif fault == "garbage" and "json" in kind:
            self._answer(status, kind, content[: len(content) // 2])
        else:
            self._answer(status, kind, content)
            if fault == "echo":
                self._answer(status, kind, content)

    def _answer(self, status: int, kind: str, content: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


class Chaos(ThreadingHTTPServer):
    """The proxy before a server on this machine.

    Attributes:
        behind: the server's port.
        delay: seconds of what is late.
        counts: of the faults so far; None: of requests that were handed on as they are.
    """

    daemon_threads = True

    def __init__(self, behind: int, seed: int, share: float, delay: float) -> None:
        """One of `FAULTS`, by the seed, befalls this share of requests."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind, self.delay = behind, delay
        self.counts: Counter[str | None] = Counter()
        self._random = random.Random(seed)  # noqa: S311  # what happens shall happen again
        self._share, self._turn = share, threading.Lock()
        self.uri = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Clients that have given up are no news."""

    def next_fault(self) -> str | None:
        with self._turn:
            fault = self._random.choice(FAULTS) if self._random.random() < self._share else None
            self.counts[fault] += 1
        return fault


@contextlib.contextmanager
def chaos(behind: int, *, seed: int, share: float = 0.1, delay: float = 1.0) -> Iterator[Chaos]:
    """A proxy at work."""
    with Chaos(behind, seed, share, delay) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()
