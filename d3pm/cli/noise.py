"""Options that are about Gaussian noise, which only one wing has."""

from d3pm.errors import ConfigError
from d3pm.process import Process


def is_gaussian(process: Process) -> bool:
    """Whether the noise is Gaussian, and data are real numbers."""
    return hasattr(process, "denoise")


def need_gaussian(process: Process, option: str, remedy: str) -> None:
    """Refuse an option that means nothing to a process of states.

    Raises:
        ConfigError: Names the option, the process and the remedy.
    """
    if not is_gaussian(process):
        raise ConfigError(
            f"{option} is about Gaussian noise, and the process is a {type(process).__name__}: {remedy}"
        )
