"""The one exception that means a user's mistake rather than a bug of ours."""


class UserError(Exception):
    """Something the user can fix: a flag, a file, a mesh, a checkpoint that does not fit.

    The message says what was wrong, where (file:line, tensor, flag) and what to do. Commands
    print it without a traceback and exit with code 2.
    """
