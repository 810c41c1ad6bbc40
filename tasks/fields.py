"""Reads the fields of an input, and says precisely what is wrong with one."""

from collections.abc import Collection

from contract.errors import InvalidInput
from contract.prediction import File
from tasks.base import Input

_SHOWN = 80  # characters of a caller's own text that are repeated in a message


def path_of(field: str) -> str:
    """The path of a field in the request, as error messages name it."""
    return f"input.{field}"


def refuse_unknown(given: Input, known: Collection[str]) -> None:
    """Raises InvalidInput for a field that the task does not read: a typing error, most likely."""
    for field in (*given.input, *given.files):
        if field not in known:
            raise InvalidInput(
                f"there is no input field {field[:_SHOWN]!a}; known: {', '.join(known)}",
                field=path_of(field[:_SHOWN]),
                rule="known_field",
            )


def required_file(given: Input, field: str) -> File:
    """The file given as `field`, with its content inline.

    Raises:
        InvalidInput: it is missing, empty, or something other than a file.
    """
    file = given.files.get(field)
    if file is None:
        if field in given.input:
            raise InvalidInput(
                f"{field} is a file: send a data URI (data:image/jpeg;base64,...), an upload, or "
                "the file as the body of the request",
                field=path_of(field),
                rule="file",
            )
        raise InvalidInput(f"{field} is missing", field=path_of(field), rule="required")
    if file.size == 0:
        raise InvalidInput(f"{field} is an empty file", field=path_of(field), rule="not_empty")
    return file


def content_of(file: File) -> bytes:
    assert file.content is not None, "files are filled in before a task sees them"
    return file.content


def integer(given: Input, field: str, *, default: int, least: int, most: int) -> int:
    """The whole number given as `field`, or `default`.

    Raises:
        InvalidInput: it is not a whole number from `least` to `most`.
    """
    value = given.input.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"{field} must be a whole number", field=path_of(field), rule="integer")
    if not least <= value <= most:
        raise InvalidInput(
            f"{field} must be from {least} to {most}", field=path_of(field), rule="range"
        )
    return value
