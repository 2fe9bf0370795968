"""The exceptions that mean a user's mistake rather than a bug of ours."""


class UserError(Exception):
    """Something the user can fix: a flag, a file, a mesh, a checkpoint that does not fit.

    The message says what was wrong, where (file:line, tensor, flag) and what to do. Commands
    print it without a traceback and exit with code 2.
    """


class Unavailable(UserError):
    """Something that is not there yet: a provider's key, or its client library.

    A study goes on with everything that does not need it.
    """
