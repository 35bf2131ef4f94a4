"""The commands on learned worlds: `rollout` and `play`."""

from __future__ import annotations

from typing import Annotated

import typer

from smalti.app.options import (
    Out,
    Plugin,
    PriorName,
    Quiet,
    Run,
    Split,
    Temperature,
    TopK,
    TopP,
)

Clip = Annotated[
    str, typer.Option("--input", metavar="CLIP", help="A clip to continue, or a source of clips.")
]
Given = Annotated[int, typer.Option("--given", help="Number of context frames.")]
Start = Annotated[
    int | None, typer.Option("--start", help="First context frame. Default: the clip's last frames.")
]
ItemNumber = Annotated[int, typer.Option("--item", help="Index of the clip in the input.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Equal seeds give equal clips.")]
Guidance = Annotated[
    float,
    typer.Option(
        "--guidance",
        min=0,
        help="Weight of guidance towards the actions: 1 for none; 2 or 3 follow them more closely.",
    ),
]


def add_commands(app: typer.Typer) -> None:
    """Add the commands on learned worlds to the command line, in the order of `smalti --help`."""
    for command in (rollout, play):
        app.command()(command)


def rollout(
    run: Run,
    clip: Clip,
    out: Out,
    actions: Annotated[
        str | None, typer.Option("--actions", help="Actions to apply, such as `forward*10 left*3`.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", help="Frames to generate without --actions.")
    ] = None,
    num: Annotated[int, typer.Option("--num", help="Number of continuations.")] = 4,
    given: Given = 6,
    start: Start = None,
    item: ItemNumber = 0,
    split: Split = None,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = 0,
    prior: PriorName = "learned",
    guidance: Guidance = 1.0,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Continue a clip under given actions; write MP4, GIF and a strip of all frames.

    Example: `smalti rollout runs/walks --input clip.mp4 --actions "forward*10" --out rolled`
    """
    from smalti.app.commands.rollout import rollout as verb

    verb(
        run,
        clip,
        out,
        actions=actions,
        frames=frames,
        num=num,
        given=given,
        start=start,
        item=item,
        split=split,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        prior=prior,
        guidance=guidance,
        quiet=quiet,
    )


def play(
    run: Run,
    clip: Clip,
    out: Out,
    frames: Annotated[int, typer.Option("--frames", help="Frames to generate for each action.")] = 16,
    given: Given = 6,
    start: Start = None,
    item: ItemNumber = 0,
    split: Split = None,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
    prior: PriorName = "learned",
    guidance: Guidance = 1.0,
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """Show what each action does: from one frame on, a clip in which it is taken again and again.

    Example: `smalti play runs/walks --input clip.mp4 --out played`
    """
    from smalti.app.commands.play import play as verb

    verb(
        run,
        clip,
        out,
        frames=frames,
        given=given,
        start=start,
        item=item,
        split=split,
        temperature=temperature,
        seed=seed,
        prior=prior,
        guidance=guidance,
        quiet=quiet,
    )
