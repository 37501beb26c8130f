"""The one error that is the user's to mend."""


class ConfigError(ValueError):
    """Input that a user can mend: the message is a sentence with what was given and what is allowed."""
