"""Make pictures unrecognisable before they are kept, as the device's operator says: blur, downscale, or a program.

The daemon checks the operator's words with this and stays small: whatever reads pictures is imported late.
"""

from __future__ import annotations

import io
import shlex
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from milonga_agent.errors import AgentError
from milonga_agent.programs import ProgramFailed, output_of

if TYPE_CHECKING:
    from PIL.Image import Image

_COMMAND_SECONDS = 30.0
_MAX_OUTPUT_BYTES = 64 << 20
# Of the longer side: faces and number plates that fill a tenth of it cannot be read any more.
_BLUR_SHARE = 0.02
_LEAST_SIDE_PX = 8


class RedactionFailed(AgentError):
    """The picture could not be made unrecognisable; it must not be kept."""


class Redaction(ABC):
    @abstractmethod
    def redact(self, picture: Image) -> Image:
        """Return the picture as it may leave the device. Raises RedactionFailed."""


class Nothing(Redaction):
    def redact(self, picture: Image) -> Image:
        return picture


class Blur(Redaction):
    """A Gaussian blur of the whole picture."""

    def redact(self, picture: Image) -> Image:
        from PIL import ImageFilter

        return picture.filter(ImageFilter.GaussianBlur(max(1.0, max(picture.size) * _BLUR_SHARE)))


class Downscale(Redaction):
    """No side of more than so many pixels."""

    def __init__(self, side_px: int) -> None:
        self._side_px = side_px

    def redact(self, picture: Image) -> Image:
        smaller = picture.copy()
        smaller.thumbnail((self._side_px, self._side_px))
        return smaller


class Command(Redaction):
    """A program of the operator's: a PNG on its standard input, a picture on its standard output."""

    def __init__(self, command: str) -> None:
        self._arguments = shlex.split(command)

    def redact(self, picture: Image) -> Image:
        from milonga import pictures

        try:
            written = output_of(self._arguments, encoded(picture, "PNG"), _COMMAND_SECONDS, _MAX_OUTPUT_BYTES)
            return pictures.decode(written)
        except ProgramFailed as error:
            raise RedactionFailed(f"{error}; see --redact") from error
        except pictures.PictureError as error:
            raise RedactionFailed(f"{self._arguments[0]} gave no picture: {error}") from error


def redaction(words: str) -> Redaction:
    """Return what "", "blur", "downscale=PIXELS" or a command stands for. Raises AgentError for what is none."""
    if not words:
        return Nothing()
    if words == "blur":
        return Blur()
    kind, equals, value = words.partition("=")
    if kind == "downscale":
        if not equals or not value.isdigit() or int(value) < _LEAST_SIDE_PX:
            raise AgentError(
                f"--redact {words}: write downscale=PIXELS with {_LEAST_SIDE_PX} or more, for example downscale=64"
            )
        return Downscale(int(value))
    try:
        if shlex.split(words):
            return Command(words)
    except ValueError as error:
        raise AgentError(f"--redact {words}: {error}") from error
    raise AgentError("--redact names no program; write blur, downscale=PIXELS or a command")


def encoded(picture: Image, format_: str) -> bytes:
    """Return the pixels alone, as a PNG or a JPEG: place, time and camera, which files of cameras tell, are left behind."""
    from PIL import Image

    bare = Image.new("RGB", picture.size)
    bare.paste(picture)
    packed = io.BytesIO()
    bare.save(packed, format_, **({"quality": 92} if format_ == "JPEG" else {}))
    return packed.getvalue()
