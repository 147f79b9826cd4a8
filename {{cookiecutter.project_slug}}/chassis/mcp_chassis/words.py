"""What a settings field is called when it is told to a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_TYPE_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    SecretStr: "text",
    Path: "a path",
}


def _plain_types(annotation: Any) -> list[Any]:
    """Return the types of an annotation without `Annotated` and `None`."""
    if get_origin(annotation) is Literal or not get_args(annotation):
        return [annotation]
    if hasattr(annotation, "__metadata__"):
        return _plain_types(get_args(annotation)[0])
    if get_origin(annotation) is tuple:
        return [tuple]
    return [plain for part in get_args(annotation) if part is not type(None) for plain in _plain_types(part)]


def is_secret(field: FieldInfo) -> bool:
    """Tell whether the value of `field` must never be shown."""
    return SecretStr in _plain_types(field.annotation)


def type_words(field: FieldInfo) -> str:
    """Say what a value must be: `a whole number from 1 to 9`."""
    plain = _plain_types(field.annotation)[0]
    if get_origin(plain) is Literal:
        return " or ".join(str(choice) for choice in get_args(plain))
    if plain is tuple:
        return "a list, separated by commas"
    known = _TYPE_WORDS.get(plain) or getattr(plain, "words", getattr(plain, "__name__", "text"))
    return f"{known}{_range_words(field)}"


def _range_words(field: FieldInfo) -> str:
    words = []
    for bound in field.metadata:
        match bound:
            case Ge(ge=limit):
                words.append(f"from {limit}")
            case Gt(gt=limit):
                words.append(f"above {limit}")
            case Le(le=limit):
                words.append(f"to {limit}")
            case Lt(lt=limit):
                words.append(f"below {limit}")
            case _:
                continue
    return f" {' '.join(words)}" if words else ""


def default_words(field: FieldInfo) -> str | None:
    """Say what an absent value stands for; None where there is nothing to say or it must not be shown."""
    if field.is_required():
        return None
    default = field.get_default(call_default_factory=True)
    if isinstance(default, SecretStr):
        # A default stands in the source for everybody to read; only given values are secret.
        return default.get_secret_value()
    if default is None or default is PydanticUndefined or default == ():
        return None
    if isinstance(default, tuple):
        return ",".join(str(part) for part in default)
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)
