"""A webhook on loopback."""

import http.server
import threading
from typing import Any

KEY = "a-KEY-of-a-webhook"


class Hook:
    """A real server on loopback; `answers` says what it does with each message in turn, the last for ever."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], str]] = []
        self.answers: list[int | str] = [200]
        self._ended = threading.Event()
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                hook.got.append((self.path, dict(self.headers), body))
                answer = hook.answers.pop(0) if len(hook.answers) > 1 else hook.answers[0]
                if answer == "hang":
                    hook._ended.wait(20)
                elif isinstance(answer, int):
                    self.send_response(answer)
                    if answer // 100 == 3:
                        self.send_header("Location", "ftp://127.0.0.1/elsewhere")
                    self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}/{KEY}?key=x"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def close(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
