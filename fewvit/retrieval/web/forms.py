"""What a form brings: fields, and images in memory."""

from __future__ import annotations

from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ...errors import printable
from ..opened import OnlyThese
from .asking import MOST_EXAMPLES, Asked, asked, pairs_of

_FILES = {"image": True, "not": False}  # file fields, and whether theirs are wanted


class _InMemory(MultiPartParser):
    """A form that came in one piece, and has to be whole."""

    spool_max_size = 1 << 40  # the body is in memory already, and bounded there
    is_whole = False

    def on_end(self) -> None:
        """The last boundary was there."""
        self.is_whole = True

    def close(self) -> None:
        """Give the memory back."""
        for file in self._files_to_close_on_error:
            file.close()


async def read_form(request: Request) -> tuple[list[tuple[str, str]], list[tuple[bool, bytes]]]:
    """Fields of a form, and its images with whether each is wanted; a field where no file was chosen is none."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        raise HTTPException(415, "images are sent as multipart/form-data")
    if options.get(b"charset", b"utf-8").lower() != b"utf-8":  # Python has codecs that make no text
        raise HTTPException(415, "the fields of a form are UTF-8")
    parser = _InMemory(request.headers, request.stream(), max_files=MOST_EXAMPLES, max_fields=100)
    pairs: list[tuple[str, str]] = []
    images: list[tuple[bool, bytes]] = []
    try:
        form = await parser.parse()
        if not parser.is_whole:
            raise HTTPException(400, "the form is cut short")
        for name, value in form.multi_items():
            if isinstance(value, str):
                pairs.append((name, value))
            elif name not in _FILES:
                raise HTTPException(400, f"no file field is called {printable(name[:40])!r}; there are image and not")
            elif value.filename or value.size:
                images.append((_FILES[name], await value.read()))
    except MultiPartException as error:
        raise HTTPException(400, f"the form cannot be read: {error.message}") from error
    finally:
        parser.close()
    return pairs, images


def merged(pairs: list[tuple[str, str]]) -> Asked:
    """The search of a form: the one that its field `state` has as a query, with what its other fields say.

    A class comes to those that are there, a folder in place of the one that is.
    """
    base = asked([pair for name, value in pairs if name == "state" for pair in pairs_of(value.encode())])
    given = asked([pair for pair in pairs if pair[0] != "state"])
    names = {name for name, _ in pairs}
    classes = tuple(dict.fromkeys((*base.only.classes, *given.only.classes)))
    folder = given.only.folder if "folder" in names else base.only.folder
    return base.but(only=OnlyThese(classes, folder))
