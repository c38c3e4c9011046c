"""Messages to webhooks."""

import base64
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from webhooks import KEY, Hook

from study.cli import notify
from study.cli.notify import (
    HIDDEN,
    VARIABLE,
    Message,
    Notifier,
    restart_without_addresses,
    webhook,
    webhooks,
)
from study.cli.options import parser
from trainables import redact
from trainables.redact import masked

SLACK = f"https://hooks.slack.com/services/T0/B0/{KEY}"


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _quick_and_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "PAUSE", 0.01)
    monkeypatch.setattr(redact, "_hidden", set())
    monkeypatch.delenv(VARIABLE, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def notifier(said: list[str], *given: str, **about: str) -> Notifier:
    about = {"study": "quickstart", "experiment": "mine", **about}
    return Notifier([webhook(text) for text in given], **about, say=said.append)


MESSAGE = Message(
    event="complete", title="a: complete", lines=("γ <b> & @here", SLACK, "\x1b[2J"), facts={"finished": 3}
)


def test_each_form_has_its_own_body() -> None:
    slack = webhook(SLACK).request(MESSAGE)
    assert slack.full_url == SLACK
    said = json.loads(slack.data)["text"]
    assert (
        said
        == "*a: complete*\nγ &lt;b&gt; &amp; @here\nhttps://hooks.slack.com/***\n\N{REPLACEMENT CHARACTER}[2J"
    )

    ntfy = webhook("ntfy:http://me:p%40ss@here.example:8080/topic#x").request(MESSAGE)
    assert ntfy.full_url == "http://here.example:8080/topic"
    assert ntfy.data.decode().startswith("γ <b> & @here\n")
    title = ntfy.get_header("Title")
    assert base64.b64decode(title.removeprefix("=?UTF-8?B?").removesuffix("?=")).decode() == "a: complete"
    assert ntfy.get_header("Tags") == "white_check_mark"
    assert base64.b64decode(ntfy.get_header("Authorization").removeprefix("Basic ")) == b"me:p@ss"

    other = json.loads(webhook("https://example.org/hook").request(MESSAGE).data)
    assert (other["event"], other["title"], other["finished"]) == ("complete", "a: complete", 3)
    assert KEY not in json.dumps([said, ntfy.data.decode(), other])


@pytest.mark.parametrize(
    ("given", "form"),
    [
        (SLACK, "slack"),
        ("https://ntfy.sh/topic", "ntfy"),
        ("http://127.0.0.1:9/x", "json"),
        ("slack:https://chat.example/hooks/x", "slack"),
        ("ntfy:https://me.example/topic", "ntfy"),
        ("json:https://ntfy.sh/topic", "json"),
    ],
)
def test_the_form_is_known_by_the_host_or_said(given: str, form: str) -> None:
    assert webhook(given).form == form


@pytest.mark.parametrize(
    "given",
    [
        *(
            "ftp://x.example/S3CRET",
            "file:///S3CRET",
            "S3CRET",
            "",
            "https://",
            "http://:80/S3CRET",
            "http://[S3CRET",
        ),
        *(
            "http://x.example:99999/S3CRET",
            "https://x.example/S3 KEY",
            "https://x.example/S3CRET\n",
            "slack:S3CRET",
        ),
        *("https://x.example/S3CRETγ", "javascript:S3CRET", "slack:ntfy:https://x.example/S3CRET"),
    ],
)
def test_what_is_no_webhook_is_refused_and_not_repeated(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parser().parse_args(["--space", "quickstart", f"--notify={given}"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert (
        "--notify: got what is not shown, as it may be a secret; allowed: an http:// or https:// address"
        in said
    )
    assert "S3" not in said


def test_addresses_of_the_environment_are_taken_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f" {SLACK}  ntfy:https://me.example/{KEY} ")
    given = [webhook(HIDDEN), webhook(SLACK)]
    assert [hook.form for hook in webhooks(given)] == ["slack", "ntfy"]  # each once
    assert VARIABLE not in os.environ
    assert KEY not in masked(f"{SLACK} and https://me.example/{KEY}")
    assert KEY not in repr(given)
    with pytest.raises(
        ValueError, match=r"^--notify: got '\*\*\*', which hides an address; allowed: .*STUDY_NOTIFY$"
    ):
        webhooks([webhook(HIDDEN)])
    monkeypatch.setenv(VARIABLE, f"ftp://{KEY}")
    with pytest.raises(ValueError, match=f"^{VARIABLE}: got what is not shown") as error:
        webhooks([])
    assert KEY not in str(error.value)


def test_a_command_line_with_an_address_begins_again_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (script := tmp_path / "run.py").touch()
    own = f"ntfy:https://me.example/{KEY}"
    typed = ["python", "-X", "dev", str(script), "--plan", "--notify", SLACK, f"--notify={own}"]
    begun: list[tuple[Any, ...]] = []
    monkeypatch.setattr(os, "execv", lambda *command: begun.append((*command, os.environ[VARIABLE])))
    monkeypatch.setenv(VARIABLE, "https://first.example/")
    monkeypatch.setattr(sys, "orig_argv", typed)
    monkeypatch.setattr(sys, "argv", typed[3:])
    restart_without_addresses([webhook(SLACK), webhook(own)])
    ((program, words, environment),) = begun
    assert (program, words) == (
        sys.executable,
        [sys.executable, "-X", "dev", str(script), "--plan", "--notify", HIDDEN, f"--notify={HIDDEN}"],
    )
    assert environment.split() == ["https://first.example/", SLACK, own]
    # Nothing to hide, and nothing that could be started again: standard input is read already.
    restart_without_addresses([webhook(HIDDEN)])
    restart_without_addresses([])
    monkeypatch.setattr(sys, "argv", ["-"])
    restart_without_addresses([webhook(SLACK)])
    assert len(begun) == 1


def test_the_end_of_a_study_is_told_once(hook: Hook) -> None:
    said: list[str] = []
    notify_them = notifier(said, hook.address, f"slack:{hook.address}")
    notify_them.answers = ["Two views beat one."]
    notify_them.ended("incomplete", "the budget of 2h is used up: 9 of 12 trials finished.", finished=9)
    notify_them.ended("failed", "whatever comes after")
    notify_them.close()
    assert said == []
    path, headers, body = next(got for got in hook.got if "event" in got[2])
    assert path == f"/{KEY}?key=x"
    assert headers["Content-Type"] == "application/json"
    content = json.loads(body)
    lines = content["text"].splitlines()
    assert lines[:2] == ["the budget of 2h is used up: 9 of 12 trials finished.", "Two views beat one."]
    assert lines[2].startswith("After 0.")
    assert lines[2].endswith(f"on {socket.gethostname()}, experiment mine.")
    known = {"study": "quickstart", "event": "incomplete", "title": "quickstart: incomplete", "finished": 9}
    assert known.items() <= content.items()
    assert len(hook.got) == 2


@pytest.mark.parametrize(
    ("answers", "tries", "why"),
    [
        ([500, 429, 200], 3, None),
        ([500], 3, "HTTP 500"),
        ([404], 1, "HTTP 404"),
        ([302], 1, "HTTP 302, a redirect: give the address that it leads to"),
        (["cut"], 3, "RemoteDisconnected"),
    ],
)
def test_a_message_is_tried_again_where_that_may_help(
    hook: Hook, answers: list[int | str], tries: int, why: str | None
) -> None:
    said: list[str] = []
    hook.answers = answers
    to_them = notifier(said, hook.address)
    to_them.ended("complete", "done")
    to_them.close()
    assert len(hook.got) == tries
    known = f"--notify: a message could not be delivered to webhook (json): {why}"
    assert [line.replace("RemoteDisconnected", "RemoteDisconnected") for line in said] == (
        [known] if why else []
    )


def test_one_that_hangs_costs_the_end_what_it_may_and_no_more(hook: Hook) -> None:
    said: list[str] = []
    hook.answers = ["hang"]
    to_them = notifier(said, hook.address)
    to_them.ended("complete", "done")
    began = time.monotonic()
    to_them.close(patience=0.2)
    assert time.monotonic() - began < 1
    assert said == ["--notify: a message could not be delivered to webhook (json): no answer in 0.2 s"]


def test_a_closed_port_is_one_line_for_each_webhook() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/{KEY}"
    said: list[str] = []
    to_them = notifier(said, closed, f"ntfy:{closed}")
    to_them.node_lost("10.0.0.3")
    to_them.ended("complete", "done")
    to_them.close()
    assert sorted(said) == [
        "--notify: a message could not be delivered to webhook 1 (json): Connection refused",
        "--notify: a message could not be delivered to webhook 2 (ntfy): Connection refused",
    ]


def test_nodes_are_told_now_and_then(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    to_them = notifier([], hook.address)
    for number in range(3):
        to_them.node_lost(f"10.0.0.{number}")
    monkeypatch.setattr(notify, "SELDOM", 0.0)
    to_them.node_lost("10.0.0.3")
    to_them.close()
    first, second = sorted((json.loads(body) for _, _, body in hook.got), key=lambda content: content["text"])
    assert first["text"].startswith("Lost: 10.0.0.0.\nIts trials go on elsewhere")
    assert second["text"].startswith("Lost: 10.0.0.1, 10.0.0.2, 10.0.0.3.\n")
    assert {first["title"], second["title"]} == {"quickstart: node lost"}


@pytest.mark.parametrize(
    ("raised", "event", "line"),
    [
        (KeyboardInterrupt(), "stopped", "Stopped by SIGINT."),
        (RuntimeError(f"no way to {SLACK}\nmore"), "failed", "no way to https://hooks.slack.com/***"),
    ],
)
def test_what_ends_a_study_without_a_summary_is_told_and_goes_on(
    hook: Hook, raised: BaseException, event: str, line: str
) -> None:
    with pytest.raises(type(raised)), notify.telling(notifier([], hook.address)):
        raise raised
    ((_, _, body),) = hook.got
    assert json.loads(body)["title"] == f"quickstart: {event}"
    assert json.loads(body)["text"].splitlines()[0] == line


def test_a_long_message_is_cut_off() -> None:
    assert len(Message(event="failed", title="", lines=("x" * 9999,)).text) == notify.LONGEST
