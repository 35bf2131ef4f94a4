"""The registry of parts: config classes by `kind`, for the parts of this package and of plugins.

Each family of parts (encoders, quantizers, ...) has a `Registry`. A config class registers itself:

    @QUANTIZERS.register
    class FSQConfig(QuantizerConfig):
        kind: Literal["fsq"] = "fsq"
        levels: tuple[int, ...] = (8, 5, 5, 5)

        def build(self) -> FSQ:
            return FSQ(levels=self.levels)

The parts of this package are imported at the first look-up in their family; other parts come from plugins
(see `smalti.core.plugins`). A config never names code to import.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Generic, TypeVar, cast, final

from pydantic import GetCoreSchemaHandler
from pydantic_core import SchemaValidator, core_schema

from smalti.core.config import Configuration
from smalti.core.errors import InputError, UnknownKind
from smalti.core.plugins import load_plugins
from smalti.core.reentry import importing
from smalti.core.suggestions import suggestion

C = TypeVar("C", bound=Configuration)
D = TypeVar("D", bound=Configuration)


@final
class Registry(Generic[C]):
    """The config classes of one family of parts, by `kind`.

    As an annotation, `Annotated[EncoderConfig, ENCODERS]`, it makes a pydantic field accept any registered
    config, or a mapping with the `kind` of one.

    Args:
        family: name of the family in messages, such as "encoder".
        base: base class of the configs of the family.
        package: package whose modules register the built-in parts.
        default: kind of settings that name none; None if they have to.
    """

    def __init__(self, family: str, base: type[C], package: str, default: str | None = None) -> None:
        self.family, self.base, self.package, self.default = family, base, package, default
        self._kinds: dict[str, type[C]] = {}
        self._has_own = False

    def register(self, config: type[D]) -> type[D]:
        """Class decorator that registers a config class.

        Raises:
            TypeError: if the class is not a config of this family, or has no default `kind`.
            ValueError: if another class has the same kind.
        """
        field = config.model_fields.get("kind")
        kind = field.default if field is not None else None
        is_of_family = self.base in config.__mro__
        if not is_of_family or not isinstance(kind, str):
            raise TypeError(
                f"expected a subclass of {self.base.__name__} with a default `kind`, received "
                f'{config.__name__}: inherit from it and write kind: Literal["name"] = "name"'
            )
        if not config.__module__.startswith("smalti."):
            self._import_own()
        other = self._kinds.get(kind)
        # A class registers itself again when its module is reloaded.
        if other is not None and (other.__module__, other.__qualname__) != (
            config.__module__,
            config.__qualname__,
        ):
            raise ValueError(
                f"expected a new kind of {self.family}, received {kind!r}, which belongs to "
                f"{other.__module__}.{other.__qualname__}: choose another name"
            )
        self._kinds[kind] = cast("type[C]", config)
        return config

    def kinds(self) -> dict[str, type[C]]:
        """Return all registered config classes, sorted by kind."""
        self._complete()
        return dict(sorted(dict(self._kinds).items()))  # copied, since another thread may register

    def get(self, kind: str) -> type[C]:
        """Return the config class of a kind.

        Raises:
            UnknownKind: if the kind is unknown; the message suggests the closest name.
        """
        kinds = self.kinds()
        if kind in kinds:
            return kinds[kind]
        hint = suggestion(kind, kinds)
        if not hint.endswith("?"):
            hint += "; load a part of your own with --plugin MODULE"
        raise UnknownKind(
            f"expected a kind of {self.family}, received {kind!r}: {hint}",
            self.family,
            kind,
        )

    def parse(self, values: Any) -> C:
        """Create a config from a mapping with a `kind`; return a config unchanged.

        Raises:
            UnknownKind: if the kind is unknown.
            InputError: if the value is neither a mapping nor a config of this family.
            pydantic.ValidationError: if a setting is invalid for the kind.
        """
        if isinstance(values, self.base):
            self._check_registered(values)
            return values
        kind = values.get("kind", self.default) if isinstance(values, dict) else None
        if not isinstance(kind, str):
            raise InputError(
                f"expected settings with the `kind` of {self._one}, received {values!r}: name one of "
                f"{', '.join(self.kinds())}"
            )
        return self.get(kind).model_validate(values)

    def validate(self, values: Any) -> C:
        """Call `parse`; report every fault as a `pydantic.ValidationError`, as a field of a config does."""
        return SchemaValidator(self._schema()).validate_python(values)

    def _check_registered(self, config: C) -> None:
        # A class is registered when it is defined, so its own instances need no import.
        kind = getattr(config, "kind", None)
        if self._kinds.get(str(kind)) is not type(config):
            raise InputError(
                f"expected a registered config of {self._one}, received a {type(config).__name__} with "
                f"the kind {kind!r}, which could be trained but not be loaded again: register its class, and "
                "create the config after that"
            )

    @property
    def _one(self) -> str:
        """The family with its article."""
        return f"{'an' if self.family[0] in 'aeiou' else 'a'} {self.family}"

    def _complete(self) -> None:
        self._import_own()
        load_plugins()

    def _import_own(self) -> None:
        """Register the parts of this package first, so that no plugin can take their kinds."""
        if self._has_own:
            return
        with importing(self.package) as is_first:
            if is_first:
                package = importlib.import_module(self.package)
                for module in pkgutil.walk_packages(package.__path__, f"{self.package}."):
                    importlib.import_module(module.name)
                # Only now: until all are registered, other threads have to import them too.
                self._has_own = True

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return self._schema()

    def _schema(self) -> Any:
        def dump(config: Any, info: Any) -> dict[str, Any]:
            return config.model_dump(mode=info.mode)

        return core_schema.no_info_plain_validator_function(
            self.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(dump, info_arg=True),
        )
