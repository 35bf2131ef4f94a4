"""Put a trained run into the package: `python benchmarks/ship.py RUN NAME --note TEXT`.

Weights are rounded to bfloat16, and a model card is written; `smalti.load(NAME)` loads the result. Evaluate
the run first, so that the card has figures, which are of the weights before rounding.
"""

from __future__ import annotations

import shutil
from typing import Annotated

import torch
import typer

from smalti.app.model_card import model_card
from smalti.core.hub import SHIPPED
from smalti.trained import load_trained

LICENCE = "apache-2.0"
MOST_BYTES = 20 * 2**20
"""Of all models in the package."""


def main(
    run: Annotated[str, typer.Argument(help="A run's directory.")],
    name: Annotated[str, typer.Argument(help="Of the model in the package.")],
    note: Annotated[str, typer.Option(help="For the card: licence of the data, where the figures are.")],
    leave_out: Annotated[list[str] | None, typer.Option(help="Priors to leave out.")] = None,
) -> None:
    """Round a run and copy it into the package."""
    trained = load_trained(run, "cpu")
    for prior in leave_out or ():
        del trained.learned[prior]
    target = SHIPPED / name
    shutil.rmtree(target, ignore_errors=True)
    trained.rounded(torch.bfloat16).save(target, torch.bfloat16)
    (target / "README.md").write_text(
        model_card(trained, ["transformers"], licence=LICENCE, note=note, name=name)
    )
    total = sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file())
    assert total <= MOST_BYTES, f"expected at most {MOST_BYTES:,} bytes in all, received {total:,}"
    print(f"{name}: {sum(path.stat().st_size for path in target.rglob('*') if path.is_file()):,} bytes")


if __name__ == "__main__":
    typer.run(main)
