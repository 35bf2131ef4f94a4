"""Train on a folder from Python: `python examples/tokenize_folder.py FOLDER RUN [key=value ...]`."""

import sys
from pathlib import Path

import smalti
from smalti.app.commands.train import train


def main(folder: str, run: str, *settings: str) -> None:
    train("image", folder, Path(run), settings)
    tokenizer = smalti.load(run)
    pictures = sorted(Path(folder).rglob("*.png"))[:8]
    codes = tokenizer.encode(list(pictures))
    print(f"{len(pictures)} pictures became codes of shape {tuple(codes.shape)}, the first of them:")
    print(codes[0, 0])


if __name__ == "__main__":
    main(*sys.argv[1:])
