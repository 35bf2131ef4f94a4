"""Parts of a work that several processes share: jobs of an array, and ranks of `torchrun`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch

from smalti.core.errors import InputError


@final
@dataclass(frozen=True)
class Part:
    """Part `index` of `num` equal ones.

    Attributes:
        index: from 0.
        num: number of parts.
    """

    index: int = 0
    num: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Parse `i/n`, with i from 0 to n-1.

        Raises:
            InputError: for other text.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not int(found[1]) < int(found[2]):
            raise InputError(
                f"expected --shard i/n with i from 0 to n-1, such as 0/8, received {text!r}: count the jobs "
                "from 0"
            )
        return cls(int(found[1]), int(found[2]))

    def of(self, outer: Part) -> Part:
        """Return this part of an outer part, as a part of the whole."""
        return Part(outer.index + outer.num * self.index, outer.num * self.num)

    def numbers(self, total: int) -> range:
        """The numbers below a total that belong to this part; parts of equal size differ by at most one."""
        return range(self.index, total, self.num)


def rank_part(environment: Mapping[str, str] = os.environ) -> Part:
    """Part of this process among the ranks that `torchrun` or `accelerate launch` has started.

    The ranks of an encoding need not talk to each other, so no process group is made, and a rank that fails
    does not stop the others' work in progress.
    """
    return Part(int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1)))


def rank_device(environment: Mapping[str, str] = os.environ) -> str | None:
    """Device of this rank: one GPU each; None without ranks or GPUs."""
    if "LOCAL_RANK" not in environment or not torch.cuda.is_available():
        return None
    return f"cuda:{int(environment['LOCAL_RANK']) % torch.cuda.device_count()}"
