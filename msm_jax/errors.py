"""The exceptions that mean a user's mistake rather than a bug of ours."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """Something the user can fix: a flag, a file, a mesh, a checkpoint that does not fit.

    The message says what was wrong, where (file:line, tensor, flag) and what to do. Commands
    print it without a traceback and exit with code 2.
    """


class Unavailable(UserError):
    """Something that is not there yet: a provider's key, or its client library.

    A study goes on with everything that does not need it.
    """


@contextlib.contextmanager
def located(where: str) -> Iterator[None]:
    """Puts the place, such as "file:line", before the message of a `UserError` in the block."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{where}: {error}") from error
