"""Every error this package raises on purpose.

All derive from :class:`Clip4clipError` and from the built-in a caller would expect, so both
``except Clip4clipError`` and ``except ValueError`` work.
"""

import re
import reprlib


class Clip4clipError(Exception):
    """The root: raised only through the classes below."""


class UnknownNameError(Clip4clipError, ValueError):
    """Raised when a model name, a modality or another choice is not one of those that exist."""


class DeviceError(Clip4clipError, ValueError):
    """Raised when a device is asked for that this machine does not have, or that a runtime cannot compute on."""


class InputTypeError(Clip4clipError, TypeError):
    """Raised when the data to embed is of a type that cannot be understood."""


class InputValueError(Clip4clipError, ValueError):
    """Raised when the data to embed has the right type but an impossible value, shape or length."""


class WeightsNotFoundError(Clip4clipError, FileNotFoundError):
    """Raised when a checkpoint, or a file the tokenizer needs, cannot be found or fetched."""


class CheckpointError(Clip4clipError, ValueError):
    """Raised when a file is there but is not a checkpoint of the model that was asked for."""


class VideoNotFoundError(Clip4clipError, FileNotFoundError):
    """Raised when a video file or URL cannot be opened because nothing is there."""


class VideoError(Clip4clipError, ValueError):
    """Raised when a file is there but no frame can be had from it."""


class PairsError(Clip4clipError, ValueError):
    """Raised when a table of videos and sentences is missing or malformed, or some of its pairs cannot be used."""


class LibraryError(Clip4clipError, ValueError):
    """Raised when a library of videos cannot be listed, or a table of its vectors be read or written."""


class VideoIndexError(Clip4clipError, RuntimeError):
    """Raised when an index of videos cannot be searched or changed as asked: no such collection, a wrong filter."""


class ModelMismatchError(VideoIndexError, ValueError):
    """Raised when vectors of one model are to be compared with those of another, or of other weights."""


class IndexUnavailableError(VideoIndexError, ConnectionError):
    """Raised when an index cannot be reached: its server does not answer, or its file is in use by another process."""


class ExportError(Clip4clipError, RuntimeError):
    """Raised when a model cannot be written in another format: its file cannot be, or it would give other vectors."""


class CacheError(Clip4clipError, OSError):
    """Raised when what is made from a checkpoint once cannot be kept, as its folder cannot be written to or is full.

    Also when what was kept is damaged or gone and cannot be made anew.
    """


class TrainingError(Clip4clipError, RuntimeError):
    """Raised when a training run cannot be begun, resumed or gone on with."""


class MissingExtraError(Clip4clipError, ImportError):
    """Raised when something needs a package that is not installed; the message names the extra that brings it."""


class InstallError(Clip4clipError, FileExistsError):
    """Raised when installing an operator would overwrite something that was not installed by us."""


# Control characters, line separators, marks that turn the direction of writing, and halves of characters.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, keep: str = "") -> str:
    """Return a text with escapes such as ``\\x1b`` for what a terminal would obey or could not show.

    Args:
        text: such as the name of a file, or a message.
        keep: characters that stay as they are, such as line breaks.
    """
    return _UNPRINTABLE.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 120


def brief(value: object) -> str:
    """``repr(value)``, however large the value, short enough for a message."""
    return _short.repr(value)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
