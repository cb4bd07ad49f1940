"""The only code that touches the network.

A client belongs to one job and one thread: its connections and its key. A free call is repeated until it works or
patience ends; the paid call is sent once, and says whether the provider can have taken it.
"""

from __future__ import annotations

import io
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from ..providers.answers import GONE, asks_to_wait, retry_after
from ..providers.contract import Answer, BadAnswer, Call, Picture, Provider, RequestRefused, Unavailable
from . import answer_files, environment, picture_files
from .answer_files import LongAnswer
from .deadlines import Deadline

logger = logging.getLogger("flux_krea")

PIECE = 64 * 2**10
REDIRECTS = 3  # of a picture; an API call follows none
WORTH_REPEATING = (429, 502, 503, 504)
HOST = re.compile(r"[a-z0-9.:_-]+")
TOO_SLOW = "it answers too slowly"
USER_AGENT = "flux-krea (ComfyUI custom node)"


@dataclass(frozen=True)
class Patience:
    """How long is waited, in seconds."""

    connect: float = 10.0
    fault: float = 30.0  # a call that keeps failing on the way
    rate: float = 60.0  # a provider that keeps answering 429
    gone: float = 6.0  # a picture that its address does not have
    whole_answer: float = 600.0  # one exchange, from the connection to the last byte, however slowly it trickles
    whole_picture: float = 300.0
    silence: float = 600.0  # without a byte, in any call
    between_polls: float = 60.0  # also where the provider asks for more
    first_pause: float = 0.5
    longest_pause: float = 8.0

    @classmethod
    def of_operator(cls) -> Patience:
        """The pack's own, cut to what the server's environment allows."""
        longest = environment.patience_seconds()
        if longest is None:
            return cls()
        pauses = {"between_polls", "first_pause", "longest_pause"}
        limits = {wait.name: longest / 8 if wait.name in pauses else longest for wait in fields(cls)}
        return cls(**{name: min(limit, getattr(cls, name)) for name, limit in limits.items()})


class Gone(Unavailable):
    """The picture's address no longer has it."""


class Stopped(Exception):
    """Nobody waits for the call any more."""


class NoAnswer(Exception):
    """`was_sent` is False where the provider certainly has not read the request."""

    def __init__(self, reason: str, was_sent: bool = True):
        super().__init__(reason)
        self.was_sent = was_sent


class Backoff:
    """Pauses that grow, until patience ends. Three tries are made in any case: one hanging call may outlast it."""

    def __init__(self, patience: Patience):
        self._began = time.monotonic()
        self._pause, self._longest = patience.first_pause, patience.longest_pause
        self._tries, self._waited = 0, 0.0

    def next(self, limit: float, asked: float = 0.0) -> float | None:
        """Seconds to wait, at least what the provider asked for; None when that is more than `limit` in all."""
        pause = max(self._pause, asked)
        self._pause = min(self._pause * 2, self._longest)
        self._tries += 1
        self._waited += pause
        too_late = self._tries >= 3 and time.monotonic() - self._began + pause > limit
        return None if too_late or self._waited > limit else pause


class _Body(io.BytesIO):
    """A request body that knows whether any of it was read. Before that no server can have accepted anything, whatever
    the fault is called: refused, unknown host, TLS, proxy."""

    was_read = False

    def read(self, size: int | None = -1) -> bytes:
        self.was_read = True
        return super().read(size)


class Client:
    """`without_keys` takes the keys out of every answer, before anybody reads it. `folder` is where long answers that are
    paid lie until `drop_answer`."""

    def __init__(
        self,
        provider_id: str,
        provider: Provider,
        key: str | None,
        patience: Patience | None = None,
        without_keys: answer_files.Hide = lambda content: content,
        folder: Path | None = None,
    ):
        self._id = provider_id
        self._provider = provider
        self._key = key
        self._base = environment.base_url(provider_id)
        self._patience = patience or Patience()
        self._without_keys = without_keys
        self._folder = folder
        self._long_answer: Path | None = None
        self._deadline = Deadline()
        self._session: requests.Session | None = None

    def ask(self, call: Call, stop: threading.Event | None = None, repeat_statuses: bool = True) -> Answer:
        """The answer to a free call, which is repeated. `repeat_statuses=False` leaves every answer, also 503, to the
        caller. Raises Unavailable when none came, BadAnswer for an address that must not be called, Stopped."""
        backoff = Backoff(self._patience)
        while True:
            fault, answer, asked = None, None, 0.0
            try:
                answer = self._once(call)
            except NoAnswer as failure:
                fault = self.unavailable(call, failure)
            else:
                if not repeat_statuses or answer.status not in WORTH_REPEATING:
                    return answer
                asked = self.asked_pause(answer)
            rate_limited = answer is not None and answer.status == 429
            pause = backoff.next(self._patience.rate if rate_limited else self._patience.fault, asked)
            if pause is None:
                if answer:
                    return answer
                assert fault
                raise fault
            _wait(pause, stop)

    def pay(self, call: Call) -> Answer:
        """Sends the paid call, once. Raises NoAnswer; with `was_sent` nobody knows whether it was accepted.

        On a connection of its own: on one kept from before, a closed socket looks like a lost answer.
        """
        self.close()
        return self._once(call)

    def was_declined(self, answer: Answer) -> bool:
        """The provider says that it did not accept the job, and that another try may be."""
        return answer.status == 429 or self._provider.declined(answer)

    def asked_pause(self, answer: Answer | None) -> float:
        """Seconds that the provider wants to be left alone."""
        return (retry_after(answer) if answer else None) or 0.0

    def unavailable(self, call: Call, failure: Exception) -> Unavailable:
        host = urlsplit(self._route(call.url, call.authorize)[0]).hostname
        return Unavailable(f"{self._provider.label} cannot be reached at {host}: {failure}.")

    def download(self, url: str, folder: Path, stem: str, most_pixels: int = picture_files.MAX_PIXELS) -> Picture:
        """A picture from https or a data: URL to `folder/stem.<format>`. Repeating it is free.

        Raises Gone when its address does not have it, Unavailable when it could not be fetched, BadAnswer when what
        came is no picture or too large.
        """
        if url.startswith("data:"):
            try:
                content = picture_files.data_url_bytes(url)
                return picture_files.store([content], folder, stem, most_pixels=most_pixels)
            except picture_files.Incomplete as error:
                raise BadAnswer(f"The provider's picture is damaged: {error}.", paid=True) from None
        try:
            self._route(url, self._is_own(url))
        except BadAnswer as refusal:
            raise BadAnswer(f"{refusal} {picture_files.NEVER_COLLECTED}", paid=True) from None
        backoff = Backoff(self._patience)
        while True:
            fault: Unavailable
            limit, asked = self._patience.fault, 0.0
            try:
                return self._download_once(url, folder, stem, most_pixels)
            except Gone as error:
                fault, limit = error, self._patience.gone
            except Unavailable as error:
                fault, asked = error, error.retry_after or 0.0
            except (NoAnswer, picture_files.Incomplete) as error:
                host = urlsplit(url).hostname
                fault = Unavailable(f"{self._provider.label} cannot be reached at {host}: {error}.", paid=True)
            pause = backoff.next(limit, asked)
            if pause is None:
                raise fault
            time.sleep(pause)

    def drop_answer(self) -> None:
        """What was paid for is out of the long answer, and on the disk by itself."""
        answer_files.remove(self._long_answer)
        self._long_answer = None

    def close(self) -> None:
        if self._session:
            self._session.close()
            self._session = None
        self._deadline.close()
        if self._long_answer:
            logger.warning(
                "API Krea: an answer of %s that is paid was not used; %s has it", self._id, self._long_answer
            )
            self._long_answer = None

    def _once(self, call: Call) -> Answer:
        url, with_key = self._route(call.url, call.authorize)
        with self._deadline.within(self._patience.whole_answer), self._open(call, url, with_key) as response:
            if call.paid and response.is_redirect:
                raise BadAnswer(
                    f"{self._provider.label} answered with a redirect ({response.status_code}), which is not followed. "
                    "Look at your account there.",
                    paid=None,
                )
            return self._answer(call, response)

    def _answer(self, call: Call, response: requests.Response) -> Answer:
        """What came. A long answer that was paid is never thrown away: where it cannot be read, the error names its file."""
        is_worth_keeping = call.paid and response.ok and call.max_answer > answer_files.IN_MEMORY
        incoming = answer_files.Incoming(self._folder if is_worth_keeping else None, self._id)
        try:
            for piece in self._pieces(response):
                incoming.add(piece)
                if incoming.size > call.max_answer:
                    raise NoAnswer(f"its answer is larger than {call.max_answer >> 20} MB")
            answer = incoming.end(response.status_code, self._headers_of(response), self._without_keys)
            if is_worth_keeping and answer.json() is None:
                raise NoAnswer("its answer is not JSON")
        except NoAnswer as failure:
            kept = incoming.keep(self._without_keys)
            raise NoAnswer(f"{failure}; what came of it is kept as {kept}" if kept else str(failure)) from None
        if isinstance(answer, LongAnswer):
            self._long_answer = answer.path
        return answer

    def _headers_of(self, response: requests.Response) -> dict[str, str]:
        hidden = self._without_keys
        return {
            name.lower(): bytes(hidden(value.encode("utf-8", "replace"))).decode("utf-8", "replace")
            for name, value in response.headers.items()
        }

    def _download_once(self, url: str, folder: Path, stem: str, most_pixels: int) -> Picture:
        with self._deadline.within(self._patience.whole_picture), self._open_picture(url) as response:
            status = response.status_code
            if status != 200:
                passing = status in (408, 425, 429) or status >= 500
                kind = Gone if status in GONE else Unavailable if passing else BadAnswer
                wait = retry_after(Answer(status, self._headers_of(response)))
                raise kind(
                    f"The picture's address at {urlsplit(url).hostname} answered {status}{asks_to_wait(wait)}.",
                    paid=True,
                    retry_after=wait,
                )
            length = response.headers.get("Content-Length", "")
            is_number = re.fullmatch("[0-9]{1,18}", length) and not response.headers.get("Content-Encoding")
            expected = int(length) if is_number else None
            return picture_files.store(self._pieces(response), folder, stem, expected, most_pixels)

    def _pieces(self, response: requests.Response) -> Iterator[bytes]:
        """The body as it arrives. The end of a body that the deadline cut off looks like any other."""
        raw = response.raw
        read = getattr(raw, "read1", None)  # urllib3 1 has none; few bytes at a time come close
        while True:
            try:
                piece = read(PIECE, decode_content=True) if read else raw.read(2**10, decode_content=True)
            except (HTTPError, OSError) as error:
                raise NoAnswer(self._reason(error)) from None
            if self._deadline.has_passed:
                raise NoAnswer(TOO_SLOW)
            if not piece:
                return
            yield piece

    def _reason(self, error: Exception) -> str:
        return TOO_SLOW if self._deadline.has_passed else _reason(error)

    def _open_picture(self, url: str) -> requests.Response:
        """Without the key; some providers want it on their own hosts, and get it when they say so."""
        first, may_have_key = self._route(url, authorize=self._is_own(url))
        call = Call("GET", url, timeout=30.0)
        response = self._open(call, first, with_key=False)
        if response.status_code in (401, 403) and may_have_key:
            response.close()
            response = self._open(call, first, with_key=True)
        for _ in range(REDIRECTS):
            if not response.is_redirect:
                return response
            call = replace(call, url=_redirected(response))
            response.close()
            response = self._open(call, self._route(call.url, authorize=False)[0], with_key=False)
        if response.is_redirect:
            response.close()
            raise BadAnswer(f"The picture's address was redirected more than {REDIRECTS} times.", paid=True)
        return response

    def _open(self, call: Call, url: str, with_key: bool) -> requests.Response:
        """The answer's head."""
        session = self._session = self._session or _session(self._deadline)
        prepared, body = self._prepared(session, call, url, with_key)
        settings: Any = session.merge_environment_settings(prepared.url, {}, True, None, None)
        silence = min(self._patience.silence, call.timeout)
        timeout = (min(self._patience.connect, silence), silence)
        try:
            # Not the session's own `send`: it reads where a redirect leads, and raises anything over what stands there.
            return session.get_adapter(prepared.url or "").send(prepared, timeout=timeout, **settings)
        except (requests.RequestException, HTTPError, OSError) as error:
            raise NoAnswer(self._reason(error), was_sent=body.was_read if body is not None else call.paid) from None

    def _prepared(
        self, session: requests.Session, call: Call, url: str, with_key: bool
    ) -> tuple[requests.PreparedRequest, _Body | None]:
        """The request with its body, None where it has none. The key's headers win over the call's own."""
        headers = dict(call.headers)
        if url != call.url:
            headers["X-Forwarded-Host"] = urlsplit(call.url).hostname or ""
        if with_key:
            headers |= self._provider.headers(self._key or "")
        files = [(part.name, (part.filename, part.content, part.content_type)) for part in call.files]
        form = [(name, (None, value)) for name, value in (call.form or {}).items()]  # multipart, also without a file
        request = requests.Request(call.method, url, headers, [*form, *files] or None, call.body, json=call.json)
        try:
            prepared = session.prepare_request(request)
        except (requests.RequestException, ValueError) as error:
            # Its text is not shown: it may quote the key.
            raise RequestRefused(
                f"What {self._provider.label} would be sent cannot be written as a request ({type(error).__name__})."
            ) from None
        content = prepared.body
        if content is None:
            return prepared, None
        body = _Body(content.encode() if isinstance(content, str) else content)
        prepared.body = body  # type: ignore[assignment]  # a file, which requests sends as it is
        return prepared, body

    def _route(self, url: str, authorize: bool) -> tuple[str, bool]:
        """Where a call really goes, and whether the key goes with it."""
        host = _host(url)
        own = self._is_own(url)
        if self._base:
            if _origin(url) == _origin(self._base):
                return url, authorize
            if own or host in self._provider.picture_hosts:
                parts = urlsplit(url)
                return self._base + parts._replace(scheme="", netloc="", fragment="").geturl(), authorize and own
        if not host or urlsplit(url).scheme != "https":
            raise BadAnswer(
                f"{self._provider.label} named an address that is not https ({_scheme(url)}); it is not called."
            )
        if authorize and not own:
            raise BadAnswer(f"{self._provider.label} named {host}, which is not its own host: no key goes there.")
        return url, authorize

    def _is_own(self, url: str) -> bool:
        if self._base and _origin(url) == _origin(self._base):
            return True
        return _host(url) in self._provider.hosts and urlsplit(url).port in (None, 443)


def _wait(seconds: float, stop: threading.Event | None) -> None:
    if stop is None:
        time.sleep(seconds)
    elif stop.wait(seconds):
        raise Stopped


def _session(deadline: Deadline) -> requests.Session:
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Adapter(deadline))
    session.auth = lambda request: request  # else requests looks for a password in ~/.netrc
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
    return session


class _Adapter(HTTPAdapter):
    """Its connections, to a proxy too, are watched by the deadline from their first moment."""

    def __init__(self, deadline: Deadline):
        self._deadline = deadline
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **values: Any) -> None:
        super().init_poolmanager(*arguments, **values)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **values: Any) -> Any:
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **values)
        if is_new:
            self._watch(manager)
        return manager

    def _watch(self, manager: Any) -> None:
        pools = manager.pool_classes_by_scheme
        manager.pool_classes_by_scheme = {scheme: _watched(pool, self._deadline) for scheme, pool in pools.items()}


def _watched(pool: Any, deadline: Deadline) -> type:
    class Options(list[Any]):
        """A connection's options, which are read again for each address of its host: none is tried after the deadline."""

        def __iter__(self) -> Iterator[Any]:
            if deadline.has_passed:
                raise TimeoutError("timed out")
            return super().__iter__()

    class Connection(pool.ConnectionCls):  # type: ignore[misc]  # whichever class the scheme has
        socket_options: Any

        def _new_conn(self) -> Any:
            self.socket_options = Options(self.socket_options or ())
            line = super()._new_conn()
            deadline.watch(self, line)
            return line

    return type(pool.__name__, (pool,), {"ConnectionCls": Connection})


def _redirected(response: requests.Response) -> str:
    """Where a redirect leads, "" where nobody can tell."""
    try:
        return urljoin(response.url, response.headers["Location"])
    except ValueError:
        return ""


def _scheme(url: str) -> str:
    """What an address begins with, for people."""
    found = re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,20}:", url)
    return found[0] if found else "without a scheme"


def _host(url: str) -> str:
    """The host as every library reads it, "" when they could differ or the port is none."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or "" if parts.port is None or parts.port else ""
    except ValueError:
        return ""
    return host if HOST.fullmatch(host) and parts.username is None and "\\" not in url else ""


def _origin(url: str) -> tuple[str, str]:
    """Two empty texts where nobody can tell."""
    with suppress(ValueError):
        parts = urlsplit(url)
        return parts.scheme, parts.netloc.lower()
    return "", ""


def _reason(error: Exception) -> str:
    """A fault in a few words of our own: the libraries' texts quote addresses and bodies."""
    text = f"{type(error).__name__} {error}"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy cannot be reached"
    if isinstance(error, requests.exceptions.SSLError):
        return "no safe connection (TLS)"
    for mark, words in (
        ("NameResolution", "unknown host"),
        ("getaddrinfo", "unknown host"),
        ("ConnectTimeout", "no connection in time"),
        ("imed out", "no answer in time"),
        ("refused", "connection refused"),
        ("IncompleteRead", "the answer broke off"),
        ("reset", "connection reset"),
        ("RemoteDisconnected", "connection closed without an answer"),
    ):
        if mark in text:
            return words
    return f"the connection failed ({type(error).__name__})"
