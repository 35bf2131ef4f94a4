"""Draw the figure of the start page: `python examples/overview.py RUN docs/images/overview.png`."""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import smalti
from smalti.app.letters import LettersSource

INK = "#1f3a5f"
TEST_ITEMS = (3, 14, 38)
"""Indices of the held-out letters to show."""
SEEDS = (0, 1, 2)
"""Seeds of the samples, one per letter, drawn from the class of that letter."""
TEMPERATURE, GUIDANCE = 0.8, 2.0


def main(run: str, out: str) -> None:
    tokenizer = smalti.load(run, "cpu")
    source = LettersSource()
    items = [source.item("test", index) for index in TEST_ITEMS]
    originals = torch.stack([torch.from_numpy(tokenizer.modality.decode(item.content)) for item in items])
    codes = tokenizer.encode(originals)
    reconstructions = tokenizer.decode(codes)
    drawn = torch.cat(
        [
            tokenizer.sample_codes(1, item.label, seed=seed, temperature=TEMPERATURE, guidance=GUIDANCE)
            for item, seed in zip(items, SEEDS, strict=True)
        ]
    )
    new = tokenizer.decode(drawn)

    figure = Figure(figsize=(9.6, 4.4), layout="constrained", facecolor="white")
    grid = figure.add_gridspec(len(items), 7, width_ratios=[1, 0.55, 1, 0.55, 1, 0.75, 2.1])
    titles = {0: "images", 2: "codes", 4: "decoded"}
    for row in range(len(items)):
        show(figure.add_subplot(grid[row, 0]), originals[row], titles[0] if row == 0 else "")
        show_codes(figure.add_subplot(grid[row, 2]), codes[row, 0], titles[2] if row == 0 else "")
        show(figure.add_subplot(grid[row, 4]), reconstructions[row], titles[4] if row == 0 else "")
        pair = grid[row, 6].subgridspec(1, 3, width_ratios=[1, 0.35, 1])
        show_codes(figure.add_subplot(pair[0, 0]), drawn[row, 0], "sampled" if row == 0 else "")
        arrow(figure.add_subplot(pair[0, 1]), "")
        show(figure.add_subplot(pair[0, 2]), new[row], f"class {items[row].label}")
        arrow(figure.add_subplot(grid[row, 1]), "encoder" if row == 0 else "")
        arrow(figure.add_subplot(grid[row, 3]), "decoder" if row == 0 else "")
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def show(axes, image: torch.Tensor, title: str) -> None:
    axes.imshow(image.movedim(0, -1).numpy(), interpolation="nearest")
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_axis_off()


def show_codes(axes, codes: torch.Tensor, title: str) -> None:
    axes.imshow(np.zeros(codes.shape), cmap="Greys", vmin=0, vmax=1)
    for (row, column), code in np.ndenumerate(codes.numpy()):
        axes.text(column, row, str(code), ha="center", va="center", fontsize=4.6, color=INK)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#c9d2dc")
    axes.set_title(title, fontsize=10, color=INK)


def arrow(axes, text: str) -> None:
    axes.annotate(
        "", (1, 0.5), (0, 0.5), arrowprops={"arrowstyle": "->", "color": INK}, xycoords="axes fraction"
    )
    axes.text(0.5, 0.62, text, ha="center", fontsize=9, color=INK, transform=axes.transAxes)
    axes.set_axis_off()


if __name__ == "__main__":
    main(*sys.argv[1:])
