"""The base class of all configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

C = TypeVar("C", bound="Configuration")


class Configuration(BaseModel):
    """Base class of every `Config`: validated and immutable; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def changed(self: C, settings: Mapping[str, Any]) -> C:
        """Return a validated copy with some settings changed.

        Args:
            settings: new values by dotted key, such as `{"decoder.channels": 64}`.

        Raises:
            AttributeError: if a key does not exist.
            pydantic.ValidationError: if a value is invalid.
        """
        new = self
        for key, value in settings.items():
            first, _, rest = key.partition(".")
            inner = getattr(new, first)
            values = {name: getattr(new, name) for name in type(new).model_fields}
            values[first] = inner.changed({rest: value}) if rest else value
            new = type(self).model_validate(values)
        return new
