"""Every error this package raises on purpose.

Each class derives from :class:`Clip4clipError` and from the built-in error that a caller would expect, so both
``except Clip4clipError`` and, for example, ``except ValueError`` work.
"""

import re
import reprlib


class Clip4clipError(Exception):
    """The base class of all errors below. It is never raised itself."""


class UnknownNameError(Clip4clipError, ValueError):
    """Raised when a model, modality, runtime, precision or other choice is unknown, or not supported by the device."""


class DeviceError(Clip4clipError, ValueError):
    """Raised when a device does not exist on this machine, or cannot be used by the runtime or in this process."""


class InputTypeError(Clip4clipError, TypeError):
    """Raised when an argument, such as the data to embed, has a type that is not supported."""


class InputValueError(Clip4clipError, ValueError):
    """Raised when an argument, such as the data to embed, has the right type but an invalid value, shape or length."""


class WeightsNotFoundError(Clip4clipError, FileNotFoundError):
    """Raised when a checkpoint, or the merges table of the tokenizer, cannot be found or downloaded."""


class CheckpointError(Clip4clipError, ValueError):
    """Raised when a file exists but is not a valid checkpoint of the requested model."""


class VideoNotFoundError(Clip4clipError, FileNotFoundError):
    """Raised when there is no video at a path or URL, or none with an id in an index."""


class VideoError(Clip4clipError, ValueError):
    """Raised when a file or URL exists but no frame can be decoded from it, or when it exceeds a limit."""


class PairsError(Clip4clipError, ValueError):
    """Raised when a table of videos and sentences is missing or malformed, or when some of its pairs cannot be used."""


class LibraryError(Clip4clipError, ValueError):
    """Raised when the videos of a library cannot be listed, or when a table of vectors cannot be read or written."""


class VideoIndexError(Clip4clipError, RuntimeError):
    """Raised when an index cannot be searched or changed, for example because it does not exist."""


class FilterError(VideoIndexError, ValueError):
    """Raised when a filter is not valid, or names a field that no video has where that is an error."""


class ModelMismatchError(VideoIndexError, ValueError):
    """Raised when vectors of different models, or of different weights of one model, would be compared."""


class IndexUnavailableError(VideoIndexError, ConnectionError):
    """Raised when the server of an index does not answer, or when another process keeps its file locked."""


class ExportError(Clip4clipError, RuntimeError):
    """Raised when a model cannot be exported, or when the exported model returns different vectors."""


class CacheError(Clip4clipError, OSError):
    """Raised when the cache folder cannot be found or written to, or when a damaged file in it cannot be rebuilt."""


class TrainingError(Clip4clipError, RuntimeError):
    """Raised when a training run cannot start, resume or continue."""


class MissingExtraError(Clip4clipError, ImportError):
    """Raised when a required package is not installed; the message names the extra that installs it."""


class InstallError(Clip4clipError, FileExistsError):
    """Raised when installing an operator would overwrite a file that this package did not install."""


# Control characters, line and paragraph separators, marks that change the direction of text, and lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, keep: str = "") -> str:
    """Escape, as ``\\x1b``, the characters that a terminal would obey or could not display.

    Args:
        text: a file name or a message, for example.
        keep: characters that are not escaped, such as line breaks.
    """
    return _UNPRINTABLE.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)


_brief_repr = reprlib.Repr()
_brief_repr.maxstring = _brief_repr.maxother = 120


def brief(value: object) -> str:
    """Return ``repr(value)``, shortened for a message."""
    return _brief_repr.repr(value)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
