"""Messages to people who do not watch: `--notify` posts them to webhooks when a study ends or loses a node.

The address of a webhook is a secret by itself: whoever has it can write there. It is kept out of command
lines, children's environments, the ledger and everything printed; an error names the form alone. Delivery
never holds a study up: each message goes out in threads of its own, and the end waits for seconds at most.
"""

import argparse
import base64
import contextlib
import json
import os
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from study.recording.stopping import stopped_by
from trainables.redact import first_line, hide, masked, plain

VARIABLE = "STUDY_NOTIFY"
"""Environment variable with addresses, blanks between them."""
HIDDEN = "***"
"""Stands for an address on a command line; the address itself is in `VARIABLE`."""
HOSTS = {"hooks.slack.com": "slack", "hooks.slack-gov.com": "slack", "ntfy.sh": "ntfy"}
"""Hosts that say what form a message takes."""
ALLOWED = "an http:// or https:// address; for a server of your own with slack:, ntfy: or json: before it"
TIMEOUT, ATTEMPTS, PAUSE = 5.0, 3, 1.0
"""Seconds for an answer; how often a message is sent until one comes, and the seconds between, then twice."""
PATIENCE = 10.0
"""Seconds that the end of a study waits for its messages."""
SELDOM = 600.0
"""Seconds between two messages about lost nodes, at least."""
LONGEST = 1500
"""Letters of a message; ntfy takes 4,096 bytes."""
ICONS = {
    "complete": "white_check_mark",
    "incomplete": "warning",
    "stopped": "octagonal_sign",
    "failed": "rotating_light",
    "node lost": "warning",
}
"""ntfy's tags, which it shows as signs, by what has happened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What people read: what has happened (a key of `ICONS`), a title, lines; `facts` are for programs."""

    event: str
    title: str
    lines: tuple[str, ...]
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The lines, cut off where they are too long."""
        text = plain(masked("\n".join(self.lines)))
        return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that takes messages of a form: slack, ntfy or json; `given` is what people typed."""

    form: str
    given: str = field(repr=False)

    @property
    def address(self) -> SplitResult:
        """The address without its form."""
        return urlsplit(self.given.removeprefix(f"{self.form}:"))

    def request(self, message: Message) -> urllib.request.Request:
        """The request that posts a message."""
        headers = {"User-Agent": "siamese-barlow-twins"}
        title = plain(masked(message.title))
        if self.form == "ntfy":
            # Headers are ASCII: ntfy reads RFC 2047.
            headers["Title"] = f"=?UTF-8?B?{base64.b64encode(title.encode()).decode()}?="
            headers |= {"Tags": ICONS[message.event], "Content-Type": "text/plain; charset=utf-8"}
            body = message.text
        else:
            headers["Content-Type"] = "application/json"
            content: dict[str, object] = {"text": f"{title}\n{message.text}"}
            if self.form == "slack":
                content["text"] = f"*{_for_slack(title)}*\n{_for_slack(message.text)}"
            else:
                content = {**message.facts, "event": message.event, "title": title, "text": message.text}
            body = json.dumps(content)
        parts, user = self.address, ""
        if "@" in parts.netloc:
            user, _, host = parts.netloc.rpartition("@")
            parts = parts._replace(netloc=host)
            headers["Authorization"] = f"Basic {base64.b64encode(unquote(user).encode()).decode()}"
        address = urlunsplit(parts._replace(fragment=""))
        return urllib.request.Request(address, body.encode(), headers, method="POST")  # noqa: S310  # checked


def _for_slack(text: str) -> str:
    """Text in which Slack sees no links and mentions."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def webhook(given: str) -> Webhook:
    """The webhook that people mean; argparse.ArgumentTypeError, which does not say what was given."""
    form, _, rest = given.partition(":")
    form, address = (form, rest) if form in {"slack", "ntfy", "json"} else ("", given)
    if given == HIDDEN:
        return Webhook("", HIDDEN)
    try:
        parts = urlsplit(address)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits or not address.isascii() or not address.isprintable() or " " in address:
        raise argparse.ArgumentTypeError(f"got what is not shown, as it may be a secret; allowed: {ALLOWED}")
    return Webhook(form or HOSTS.get(str(parts.hostname), "json"), given)


def restart_without_addresses(given: Sequence[Webhook]) -> None:
    """Run this command again with addresses in the environment, if there are any on its command line.

    Other users of the machine can read command lines, and Ray keeps that of a driver in its job table.
    """
    known = [hook.given for hook in given if hook.given != HIDDEN]
    words = sys.orig_argv[1:]
    if not Path(sys.argv[0]).is_file() or not any(address in word for address in known for word in words):
        return
    for address in sorted(known, key=len, reverse=True):
        words = [word.replace(address, HIDDEN) for word in words]
    os.environ[VARIABLE] = " ".join([*os.environ.get(VARIABLE, "").split(), *known])
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *words])  # noqa: S606


def webhooks(given: Sequence[Webhook]) -> list[Webhook]:
    """Those given and those of the environment, from which they are taken, so that no child has them.

    Raises:
        ValueError: one in the environment is none, or what stands for one is all there is.
    """
    try:
        found = [*given, *map(webhook, os.environ.pop(VARIABLE, "").split())]
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{VARIABLE}: {error}") from None
    known = list(dict.fromkeys(hook for hook in found if hook.given != HIDDEN))
    if found and not known:
        raise ValueError(
            f"--notify: got {HIDDEN!r}, which hides an address; allowed: {ALLOWED}, or {VARIABLE}"
        )
    for hook in known:
        hide(hook.given.removeprefix(f"{hook.form}:"))
    return known


@dataclass
class Notifier:
    """Sends messages about a study; without webhooks, none.

    Attributes:
        study: its name.
        experiment: the ledger's.
        say: gets a line for people where a message could not be delivered.
        answers: what the report says, for the message at the end.
    """

    hooks: Sequence[Webhook] = ()
    study: str = ""
    experiment: str = ""
    say: Callable[[str], object] = lambda line: None
    answers: Sequence[str] = ()
    _began: float = field(default_factory=time.monotonic, init=False)
    _ended: bool = field(default=False, init=False)
    _lost: list[str] = field(default_factory=list, init=False)
    _lost_told: float | None = field(default=None, init=False)
    _threads: list[threading.Thread] = field(default_factory=list, init=False)
    _failed: set[Webhook] = field(default_factory=set, init=False)

    def ended(self, event: str, *lines: str, **counts: int) -> None:
        """Send how the study has ended, with what its report says; only the first end counts."""
        if self._ended:
            return
        self._ended = True
        self._send(event, *lines, *self._lost_nodes(), *self.answers, **counts)

    def node_lost(self, node: str) -> None:
        """Send that a node was lost, unless such a message is too recent: then the next one has it, too."""
        self._lost.append(node)
        now = time.monotonic()
        if self._lost_told is None or now - self._lost_told >= SELDOM:
            self._lost_told = now
            self._send(
                "node lost", *self._lost_nodes(), "Its trials go on elsewhere, from their last checkpoint."
            )

    def _lost_nodes(self) -> list[str]:
        lost, self._lost = self._lost, []
        return [f"Lost: {', '.join(lost)}."] if lost else []

    def close(self, patience: float = PATIENCE) -> None:
        """Wait for what is under way, for a few seconds at most."""
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._not_delivered(int(thread.name), f"no answer in {patience:g} s")

    def _send(self, event: str, *lines: str, **counts: int) -> None:
        from study.planning.forecast import format_duration

        seconds = time.monotonic() - self._began
        where = f"After {format_duration(seconds)} on {socket.gethostname()}, experiment {self.experiment}."
        facts = {
            "study": self.study,
            "experiment": self.experiment,
            "host": socket.gethostname(),
            "seconds": round(seconds, 1),
            **counts,
        }
        message = Message(
            event=event,
            title=f"{self.study}: {event}",
            lines=(*lines, where),
            facts=facts,
        )
        for number, hook in enumerate(self.hooks):
            thread = threading.Thread(
                target=self._deliver, args=(number, hook, message), name=str(number), daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _deliver(self, number: int, hook: Webhook, message: Message) -> None:
        trouble = "no answer"
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE * attempt)
            again, trouble = post(hook.request(message))
            if not trouble:
                return
            if not again:
                break
        self._not_delivered(number, trouble)

    def _not_delivered(self, number: int, why: str) -> None:
        """Say so once for each webhook; not its address, nor what a library says of it."""
        hook = self.hooks[number]
        if hook not in self._failed:
            self._failed.add(hook)
            which = f" {number + 1}" if len(self.hooks) > 1 else ""
            self.say(f"--notify: a message could not be delivered to webhook{which} ({hook.form}): {why}")


@contextlib.contextmanager
def telling(notifier: Notifier) -> Iterator[None]:
    """While the study runs in this context, tell what ends it without a summary; then wait for delivery."""
    try:
        yield
    except KeyboardInterrupt as stop:
        notifier.ended("stopped", f"Stopped by {stopped_by(stop)[0]}.")
        raise
    except Exception as error:
        notifier.ended("failed", first_line(error))
        raise
    finally:
        notifier.close()


def post(request: urllib.request.Request) -> tuple[bool, str]:
    """Post a message: whether to try again, and what was wrong, in our own words; empty: it has arrived."""

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        """A redirected POST would lose its message, and could lead anywhere."""

        def redirect_request(self, *_: Any) -> None:
            """Follow none."""

    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=TIMEOUT):
            return False, ""
    except urllib.error.HTTPError as error:
        error.close()
        redirect = ", a redirect: give the address that it leads to" if 300 <= error.code < 400 else ""
        return error.code >= 500 or error.code == 429, f"HTTP {error.code}{redirect}"
    except Exception as error:  # whatever it is, the study goes on
        return True, _in_words(error)


def _in_words(error: Exception) -> str:
    """What went wrong; not all that a library says of it, which may hold the address."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer in {TIMEOUT:g} s"
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {cause.reason}"
    return (isinstance(cause, OSError) and cause.strerror) or type(error).__name__
