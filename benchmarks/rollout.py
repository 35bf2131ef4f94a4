"""Cached rollouts of clips, compared with a full forward pass for every code.

smalti generates ten frames after six given ones, for 16 clips at once. The alternative generates the first
two of these frames: its time is the median time of a full forward pass over the frames so far, times the
number of codes per frame. Both are timed in alternation in one process. Run as
`python benchmarks/rollout.py`; takes about three minutes.
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from record import record
from timing import Time, interleaved

from smalti.app.recipes import get_recipe
from smalti.autoregressive.frame_pixelcnn import FramePixelCNNConfig
from smalti.autoregressive.sampling import sample
from smalti.core.conditions import Conditions

GIVEN, DRAWN, NAIVE = 6, 10, 2
NUM_CODES, NUM_ACTIONS = 512, 3


@torch.no_grad()
def compare(grid: tuple[int, int], num_codebooks: int, num: int, repeats: int, threads: int) -> None:
    """Time both for one frame size, and record it."""
    config = get_recipe("walks").prior.network
    assert isinstance(config, FramePixelCNNConfig)
    network = config.build(NUM_CODES, num_codebooks, conditions={"action": NUM_ACTIONS}).eval()
    length = GIVEN + DRAWN
    codes = torch.randint(NUM_CODES, (num, num_codebooks, length, *grid))
    actions = torch.randint(NUM_ACTIONS, (num, length))

    def ours() -> None:
        sample(network, num, (length, *grid), Conditions(action=actions), given=codes[:, :, :GIVEN])

    def forward(frames: int) -> None:
        network(codes[:, :, :frames], Conditions(action=actions[:, :frames]))

    works = [ours, *(lambda frames=GIVEN + 1 + drawn: forward(frames) for drawn in range(NAIVE))]
    own, *forwards = interleaved(works, repeats)
    rows, columns = grid
    symbols = num_codebooks * rows * columns
    record(
        "rollout",
        work=f"{num} rollouts of {DRAWN} frames of {rows}x{columns}, {num_codebooks} "
        f"codebook{'s' * (num_codebooks > 1)} of {NUM_CODES}, {GIVEN} given frames, "
        "prior of the recipe walks",
        peer=f"full forward per code, extrapolated from {NAIVE} frames",
        threads=threads,
        ours=own,
        theirs=Time(*(sum(clock) for clock in zip(*forwards, strict=True))).times(symbols),
        benchmark="rollout",
        target=1,
        repeats=repeats,
    )


def main(
    repeats: Annotated[int, typer.Option(help="Timed rounds.")] = 7,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
    num: Annotated[int, typer.Option(help="Clips generated at once.")] = 16,
) -> None:
    """Compare on frames of 8x8 codes (the recipe) and of 21x21 codes (the paper)."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    for grid, num_codebooks in (((8, 8), 2), ((21, 21), 1)):
        compare(grid, num_codebooks, num, repeats, threads)


if __name__ == "__main__":
    typer.run(main)
