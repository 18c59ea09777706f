"""Every error that the toolkit raises on purpose, in one tree.

A message is one line: what was wrong, where, and what to do. The command line prints it and
exits with `exit_code`: 2 for wrong use or bad input, 1 for a check that failed. What a message
quotes of a file or a server goes through `printable`.
"""


class ToolkitError(Exception):
    """Root of the tree.

    Examples:
        >>> from pathlib import Path
        >>> from toolkit import ToolkitError, read_xray
        >>> try:
        ...     read_xray(Path("none.png"))
        ... except ToolkitError as error:
        ...     print(error)
        none.png: cannot be read: No such file or directory
    """

    exit_code = 2


class UsageError(ToolkitError):
    """An option or a name that cannot be used as given."""


class MissingExtraError(ToolkitError):
    """A package of an optional extra is not installed, or two that exclude each other are."""


class DataError(ToolkitError):
    """A data folder that is missing, empty, or cannot be used for what was asked."""


class ImageError(ToolkitError):
    """A file that is refused as an X-ray.

    Attributes:
        code: a short stable word for programs, such as `not_an_image`.
        status: the HTTP status that a service answers with, 4xx.
    """

    def __init__(self, code: str, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.code = code
        self.status = status

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str, int]]:
        return type(self), (self.code, str(self), self.status)


class RequestError(ToolkitError):
    """A request that the service refuses for another reason than its X-ray.

    Attributes:
        status: the HTTP status, 4xx or 503.
        code: a short stable word for programs, such as `overloaded`.
        headers: to send with the answer, such as `retry-after`; lower case.
    """

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class ServiceError(ToolkitError):
    """A service that cannot be reached, will not answer, or answers as none of ours does.

    Attributes:
        status: the HTTP status that it answered with; None where it gave none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ManifestError(ToolkitError):
    """A manifest that is missing, unreadable, or of an unknown schema."""


class CheckpointError(ToolkitError):
    """A checkpoint that is missing, corrupt, or of another network."""


class DefinitionError(ToolkitError):
    """A network's definition that cannot be read, or cannot work; it says where and why."""


class ModelRefusedError(ToolkitError):
    """An artifact without a valid proof: a hash that does not match, or no passed verdict."""


class ProviderError(ToolkitError):
    """An ONNX Runtime execution provider that was asked for and cannot be had."""


class TrainingError(ToolkitError):
    """A training that cannot go on, such as one whose loss is no longer finite."""


class BatchError(ToolkitError):
    """A run over many X-rays that cannot go on, such as one whose cluster is lost."""


class WorkerError(ToolkitError):
    """Worker processes that cannot be begun, or die as soon as they are."""


class PackagingError(ToolkitError):
    """A bento or an image that cannot be built."""


class InterruptedRunError(ToolkitError):
    """A run that the user stopped; what it had reached is saved."""

    exit_code = 130


class CheckFailedError(ToolkitError):
    """A check ran and found a fault."""

    exit_code = 1


class EquivalenceError(CheckFailedError):
    """An exported artifact whose output differs from PyTorch's by more than allowed."""


class HealthError(CheckFailedError):
    """A trained network that is not worth exporting, such as one with a dead input."""


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an exception, also one of PyTorch's, says that no memory is left."""
    # The allocator of the CPU has no error class of its own.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "allocate memory" in str(error)
    )


def printable(text: object, most: int | None = None) -> str:
    r"""Return what somebody else said, in at most so many characters, as one line to print.

    What a terminal would obey, or cannot show, is escaped as Python does: `\x1b`.
    """
    return escaped(" ".join(str(text)[:most].split()))


def escaped(text: str) -> str:
    """Return a text of one line or more with all but its printable characters escaped."""
    return "".join(
        each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text
    )


def is_text(text: str) -> bool:
    """Return whether a text can be written as UTF-8: names of files may hold half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def numbered(count: int, thing: str) -> str:
    """Return so many things in words: `1 file`, `2 files`."""
    return f"{count} {thing}{'s' * (count != 1)}"
