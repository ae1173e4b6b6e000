"""A video behind an http(s) URL: FFmpeg's options, time limits, and plain reasons for what fails."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Generator, Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies

import av
import av.error
import certifi

from ..errors import VideoError, VideoNotFoundError, brief

OPEN_TIMEOUT = 60.0  # seconds to open a URL; the index of a video may be long
READ_TIMEOUT = 30.0  # seconds to wait for the next bytes
SEEK_TIMEOUT_MARGIN = 1.0  # seconds by which FFmpeg's own timeout is longer than these
MAX_FETCH_SECONDS = 600.0  # waiting for the bytes of one URL, in total
HTTP_OPTIONS = {
    "protocol_whitelist": "http,https,httpproxy,tcp,tls",
    "reconnect": "1",
    "reconnect_delay_max": "5",  # seconds
    "multiple_requests": "1",  # over one connection
    "request_size": str(1 << 20),  # bytes; without it, each seek discards what the server has already sent
    "short_seek_size": str(1 << 18),  # bytes up to which reading on replaces a seek; the default is a TCP window
}
HTTP_ERRORS = (
    (av.error.HTTPBadRequestError, "400 Bad Request"),
    (av.error.HTTPUnauthorizedError, "401 Unauthorized: it asks for a login"),
    (av.error.HTTPForbiddenError, "403 Forbidden: the address may have expired, or needs a login"),
    (av.error.HTTPNotFoundError, "404 Not Found: there is nothing at this address"),
    (av.error.HTTPTooManyRequestsError, "429 Too Many Requests: try again later"),
    (av.error.HTTPClientError, "with a 4xx error: it refuses this address"),
    (av.error.HTTPServerError, "with a 5xx error: try again later"),
)


class RemoteVideo:
    """A video behind an http(s) URL.

    Args:
        url: its address.
        name: name of the video, for messages.

    Attributes:
        url: its address, with the scheme in lower case.
    """

    def __init__(self, url: str, name: str) -> None:
        scheme, rest = url.split(":", 1)
        self.url = f"{scheme.lower()}:{rest}"  # FFmpeg does not know HTTP://
        self._name = name
        self._seconds_waited = 0.0

    @staticmethod
    def options() -> dict[str, str]:
        """Return FFmpeg's options for fetching a URL."""
        # PyAV's timeouts do not cover seeks, so FFmpeg gets one, too. It is longer than PyAV's, which must come first:
        # FFmpeg takes its own timeout for the end of the file.
        timeout = max(OPEN_TIMEOUT, READ_TIMEOUT) + SEEK_TIMEOUT_MARGIN
        microseconds = str(round(timeout * 1_000_000))
        # FFmpeg by itself accepts any certificate. $SSL_CERT_FILE comes first, then the system's, then Mozilla's.
        authorities = ssl.get_default_verify_paths().cafile or certifi.where()
        return HTTP_OPTIONS | {"timeout": microseconds, "tls_verify": "1", "ca_file": authorities}

    def supports_ranges(self) -> bool:
        """Return whether the server can send a part of the file."""
        return self._can_fetch(offset="1", request_size="1024")

    def download(self) -> Generator[bytes, None, None]:
        """Yield the content of the file in chunks.

        Raises:
            VideoError: the connection fails, or the download takes too long.
        """
        try:
            with self._fetch() as raw:
                for packet in self.limit_waiting(raw.demux()):
                    yield bytes(packet)
        except av.error.FFmpegError as error:
            raise self.connection_error(error) from error

    def limit_waiting(self, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
        """Yield the packets, until waiting for them has taken ``MAX_FETCH_SECONDS`` in total.

        Raises:
            VideoError: it takes longer.
        """
        while True:
            start = time.monotonic()
            packet = next(packets, None)
            self._seconds_waited += time.monotonic() - start
            if self._seconds_waited > MAX_FETCH_SECONDS:
                raise VideoError(
                    f"{self._name}: fetching it takes more than {MAX_FETCH_SECONDS:g} s, which is the limit. Download "
                    "it first; a live stream that never ends cannot be read"
                )
            if packet is None:
                return
            yield packet

    def is_content_error(self, error: av.error.FFmpegError) -> bool:
        """Return whether FFmpeg could fetch the URL, but not read what came."""
        if isinstance(error, av.error.ArgumentError):  # either the format or the protocol is not allowed
            return self._can_fetch()
        return isinstance(error, av.error.InvalidDataError)

    def not_found_error(self, error: av.error.FFmpegError) -> VideoNotFoundError:
        """Return the error to raise when the URL cannot be opened."""
        return VideoNotFoundError(f"{self._name}: cannot be fetched: {self._explain(error)}")

    def connection_error(self, error: av.error.FFmpegError) -> VideoError:
        """Return the error to raise when the connection fails while the video is read."""
        return VideoError(f"{self._name}: the connection failed: {self._explain(error)}")

    def _can_fetch(self, **options: str) -> bool:
        try:
            self._fetch(**options).close()
        except av.error.FFmpegError:
            return False
        return True

    def _fetch(self, **options: str) -> av.container.InputContainer:
        """Open the URL as raw data: its bytes, whatever they are, come as packets."""
        options = self.options() | {"format_whitelist": "data"} | options
        timeout = (OPEN_TIMEOUT, READ_TIMEOUT)
        return av.open(self.url, format="data", options=options, timeout=timeout)

    def _explain(self, error: av.error.FFmpegError) -> str:
        """Return why the URL cannot be fetched. FFmpeg reports many causes as the same error."""
        for kind, answer in HTTP_ERRORS:
            if isinstance(error, kind):
                return f"its server answers {answer}"
        if isinstance(error, av.error.ExitError | av.error.TimeoutError):
            return f"no answer within {OPEN_TIMEOUT:g} s, or no more bytes for {READ_TIMEOUT:g} s"
        if isinstance(error, av.error.ConnectionRefusedError):
            return "nothing listens at this address: the connection is refused"
        if isinstance(error, av.error.ArgumentError):
            return "it is not a valid address, or redirects to something other than http or https"
        parts = urlsplit(self.url)
        tls_hint = ", or its certificate is not valid (TLS)" if parts.scheme == "https" else ""
        if parts.scheme in getproxies():
            return f"the connection, which goes through a proxy, failed or was lost{tls_hint}"
        try:
            socket.getaddrinfo(parts.hostname, None)
        except (OSError, UnicodeError):
            return f"the host {brief(parts.hostname)} has no address: check its name, and the network"
        return f"the connection failed or was lost{tls_hint}"
