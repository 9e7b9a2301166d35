"""What can go wrong by a user's hand. Every message names the field, the value and the remedy, on one line.

The command line turns these, and only these, into one line and exit code 2: any other exception is a
defect of this package and keeps its traceback.
"""


class D3PMError(ValueError):
    """A value that cannot work: what it was, where it stood, what would work."""


class DataError(D3PMError):
    """Data that is missing, empty, too short, or has symbols the codec does not know."""


class ConfigError(D3PMError):
    """A configuration that contradicts itself or names what does not exist."""


class CheckpointError(D3PMError):
    """A saved model or run that cannot be read, or does not match what it is used with."""
