"""What a server may send back: no redirect, and no more than a limit, counted while it arrives.

The providers' clients read a body at once and decompress it as far as it goes: ten megabytes can
become gigabytes. So a hook on each response counts what its body becomes, piece by piece, and the
request says that only gzip may be used.
"""

import contextlib
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from msm_jax.corpus.writers.api_errors import ApiError
from msm_jax.limits import REPLY_BYTES

_PIECE = 1 << 20  # bytes that are decompressed at once
HEADERS = {"Accept-Encoding": "gzip"}


def check(response: Any) -> None:
    """Limit the body of a response; a hook of the providers' clients, before the body is read.

    Raises:
      ApiError: the response is a redirect, or its body is compressed in another way than gzip.
        While the body is read: it is longer than `REPLY_BYTES`, or not what its header says.
    """
    if response.has_redirect_location:
        host = response.headers["location"].split("?")[0][:200]
        raise ApiError(
            "redirected",
            f"HTTP {response.status_code}: the server redirects to {host}, and nothing was sent "
            "there",
            fatal=True,
        )
    body, read, aread = _Body(response), response.iter_raw, response.aiter_raw

    def iter_raw(chunk_size: int | None = None) -> Iterator[bytes]:
        for part in read(chunk_size):
            yield from body.pieces(part)

    async def aiter_raw(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        async with contextlib.aclosing(aread(chunk_size)) as parts:
            async for part in parts:
                for piece in body.pieces(part):
                    yield piece

    response.iter_raw, response.aiter_raw = iter_raw, aiter_raw


async def check_async(response: Any) -> None:
    """`check` for asynchronous clients."""
    check(response)


class _Body:
    """Counts the bytes of a body, after decompressing it."""

    def __init__(self, response: Any):
        self._by_line = response.request.url.path.endswith("/results")  # of a batch
        self._size, self._gzip = 0, None
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding == "gzip":
            self._gzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
            del response.headers["content-encoding"]
        elif encoding not in ("", "identity"):
            said = f"the body is compressed by {encoding[:40]!r}, which was not asked for"
            raise ApiError("broken response", said, retry=True)

    def pieces(self, part: bytes) -> Iterator[bytes]:
        """The content of a part of the body."""
        if self._gzip is None:
            yield self._counted(part)
            return
        while True:
            try:
                piece = self._gzip.decompress(part, _PIECE)
            except zlib.error as error:
                raise ApiError("broken response", f"not gzip: {error}", retry=True) from None
            part = self._gzip.unconsumed_tail
            yield self._counted(piece)
            if len(piece) < _PIECE:
                return

    def _counted(self, piece: bytes) -> bytes:
        newline = piece.rfind(b"\n") if self._by_line else -1
        self._size = self._size + len(piece) if newline < 0 else len(piece) - newline - 1
        if self._size > REPLY_BYTES:
            # Not tried again: the next attempt would be paid for as well.
            raise ApiError("reply too long", f"more bytes than {REPLY_BYTES}")
        return piece
