"""Names of the ids of a data set's conditions, collected without decoding its items."""

from __future__ import annotations

from collections.abc import Iterable

from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.data.column_files import names_in
from smalti.data.columns import ColumnSpec
from smalti.data.ingest import readable, readable_columns
from smalti.data.sources.base import Item, Source


class ConditionNames(Configuration):
    """Conditions of the items of a source, and the names of their ids.

    Attributes:
        classes: class names by id, sorted.
        actions: names of the actions by id, sorted.
        columns: further conditions, with the names of their ids.
    """

    classes: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    columns: tuple[ColumnSpec, ...] = ()

    @classmethod
    def of_split(cls, source: Source, split: str) -> ConditionNames:
        """Collect the names of a split of a source.

        Raises:
            InputError: as `of` does.
        """
        files = source.files(split)
        if files is None:
            return cls.of(source.annotations(split))
        labels = {files.label(name) for name in files.names}
        return cls(classes=tuple(sorted(readable(name) for name in labels if name is not None)))

    @classmethod
    def of(cls, items: Iterable[Item]) -> ConditionNames:
        """Collect the names of items, whose contents are not read.

        Raises:
            InputError: if the values of a column differ in kind or width, or an item lacks a vector that
                others have.
        """
        classes: set[str] = set()
        actions: set[str] = set()
        specs: dict[str, ColumnSpec] = {}
        names: dict[str, set[str]] = {}
        num_given: dict[str, int] = {}
        total = 0
        for item in items:
            total += 1
            classes.update(() if item.label is None else (readable(item.label),))
            actions.update(name for name in item.actions or () if name is not None)
            for name, value in readable_columns(item.columns).items():
                spec = ColumnSpec.of(name, value)
                if specs.setdefault(name, spec) != spec:
                    raise InputError(
                        f"expected {specs[name]} in the column {name}, as for earlier items, received {spec} "
                        f"for {readable(item.name)}: give all items values of one kind"
                    )
                names.setdefault(name, set()).update(each for each in names_in(value) if each is not None)
                num_given[name] = num_given.get(name, 0) + 1
        for name, spec in specs.items():
            if not spec.is_ids and num_given[name] < total:
                raise InputError(
                    f"expected a vector in the column {name} for every item, received {num_given[name]} for "
                    f"{total} items: complete the column, or leave it out"
                )
        columns = (specs[name].changed({"names": tuple(sorted(names[name]))}) for name in sorted(specs))
        return cls(classes=tuple(sorted(classes)), actions=tuple(sorted(actions)), columns=tuple(columns))

    @property
    def names_by_column(self) -> dict[str, tuple[str, ...]]:
        """Names of the ids of each column of ids."""
        return {spec.name: spec.names for spec in self.columns if spec.is_ids}

    @property
    def sizes(self) -> dict[str, int]:
        """Number of ids of each id condition, by name."""
        named = {"label": self.classes, "action": self.actions, **self.names_by_column}
        return {name: len(ids) for name, ids in named.items() if ids}

    @property
    def given(self) -> frozenset[str]:
        """Names of the conditions of the items."""
        return frozenset(self.sizes) | {spec.name for spec in self.columns}
