"""The errors whose message is one sentence for the user, shown without a traceback."""


class ConfigError(ValueError):
    """An input that the user can correct; the message says what was given and what is allowed."""


class RunError(RuntimeError):
    """A run that cannot continue; the message says why, and what to do about it."""


class NotResumableError(RunError):
    """A run that cannot continue, and that would stop in the same way again if it were resumed."""


class DivergedError(NotResumableError):
    """Training diverged."""
