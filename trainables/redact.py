"""Text as people may see it: without passwords, and without characters that command a terminal."""

import re
from urllib.parse import unquote

# Bounded, so that no text, however long and whoever wrote it, takes seconds. The names of files and of the
# views of MLflow's pages are no secrets.
WITH_USER = re.compile(r"\b([a-zA-Z][a-zA-Z0-9+.-]{0,30})://(?=[^/\s])([^\s'\"]{0,1000})@")
NAMED_SO = "(?:pass|pwd|secret|token|key|signature)"
WITH_SECRET = re.compile(
    r"([?&;](?!(?:sslkey|ssl_key|passfile|viewStateShareKey)=)[^=&;\s'\"]{0,60}"
    + NAMED_SO
    + r"[^=&;\s'\"]{0,60}=)(?:\{[^}]{0,200}\}|[^&;\s])+",
    re.IGNORECASE,
)
WITH_QUOTED = re.compile(r"([?&;][^=&;\s'\"]{1,60}=)([^&;\s'\"]{0,4000})")
ASSIGNED = re.compile(NAMED_SO + r"\w{0,60}\s?[=:]", re.IGNORECASE)
CONNECTION = re.compile(r"(\bodbc_connect=)[^&'\"\n]+", re.IGNORECASE)
"""A whole connection string, which may have its password anywhere."""
WEBHOOK = re.compile(
    r"\b(https?://(?:hooks\.slack(?:-gov)?\.com|discord(?:app)?\.com/api/webhooks|ntfy\.sh)/)[^\s'\"]+"
)
"""Addresses to which whoever has them can write."""
NAMED_BY_TOKEN = ("http", "https", "s3")
"""Addresses whose user alone may be a secret: a token, or one of a pair of keys."""
SHORTEST_HIDDEN = 12
"""Letters; to mask shorter texts would make ordinary ones unreadable."""
_hidden: set[str] = set()
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def hide(secret: str) -> None:
    """Let `masked` hide this text, too, in this process: a whole address that is a secret by itself."""
    if len(secret) >= SHORTEST_HIDDEN:
        _hidden.add(secret)


def masked(text: str) -> str:
    """The text, with `***` for passwords and keys within the addresses that it holds, and what is hidden.

    Rather too much than too little: a password may hold `/` and `@`.
    """
    for secret in _hidden:
        text = text.replace(secret, "***")
    text = WEBHOOK.sub(r"\1***", text)
    text = CONNECTION.sub(r"\1***", WITH_USER.sub(_without_password, text))
    return WITH_QUOTED.sub(_without_quoted, WITH_SECRET.sub(r"\1***", text))


def _without_password(address: re.Match[str]) -> str:
    scheme, before = address.groups()
    user, colon, _ = before.partition(":")
    if colon:
        return f"{scheme}://{user}:***@"
    if "/" in before or scheme not in NAMED_BY_TOKEN:
        return address[0]
    return f"{scheme}://***@"


def _without_quoted(parameter: re.Match[str]) -> str:
    """A parameter whose name or value hides a secret behind quoting, be it twice."""
    (name, value), whole = parameter.groups(), parameter[0]
    if "%" not in whole:
        return whole
    decoded = unquote(unquote(whole))
    hides = (
        WITH_SECRET.search(decoded) or WITH_USER.search(decoded) or ASSIGNED.search(unquote(unquote(value)))
    )
    return f"{name}***" if hides else whole


def plain(text: str) -> str:
    """The text, with the sign for what cannot be shown in place of control characters but tab and newline."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def first_line(error: BaseException) -> str:
    """What an exception says, in one line that may be shown; its name where it says nothing."""
    return plain(masked((str(error).splitlines() or [type(error).__name__])[0]))
