"""Errors that a user can act on, and the exit codes of both commands.

0 done · 1 done, but below a stated quality · 2 input · 3 environment or server · 4 data · 75 try again later ·
130 interrupted with state saved. Everything else is a defect of ours and shows a traceback.
"""


class UserError(Exception):
    """Something outside the program is wrong; the message names it, says what was seen and what to do."""

    exit_code = 2


class Stopped(BaseException):
    """The user pressed Ctrl-C. Not an Exception, so that nothing takes it for a failure; not a KeyboardInterrupt, at
    which typer would end without a word."""


class QualityError(UserError):
    """What the user asked for as a limit was not held."""

    exit_code = 1


class InputError(UserError):
    """A command, a config or a path is wrong."""

    exit_code = 2


class EnvironmentProblem(UserError):
    """The machine, an optional package or a server is not as needed."""

    exit_code = 3


class DataError(UserError):
    """Images, tables or caches are missing, damaged or of no use."""

    exit_code = 4


class TryAgainError(UserError):
    """What stopped the run passes by itself or by freeing space; the same command goes on from the saved state."""

    exit_code = 75


class PeerEndedError(TryAgainError):
    """Another process of the same run has ended; that process says why."""


class Interrupted(UserError):
    """The user stopped the run; its state is saved."""

    exit_code = 130
