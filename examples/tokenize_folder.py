"""Train a tokenizer on a folder of images and encode some of them.

Usage: `python examples/tokenize_folder.py FOLDER RUN [key=value ...]`.
"""

import sys
from pathlib import Path

import smalti
from smalti.app.commands.train import train


def main(folder: str, run: str, *settings: str) -> None:
    train("image", folder, Path(run), settings)
    tokenizer = smalti.load(run)
    images = sorted(Path(folder).rglob("*.png"))[:8]
    codes = tokenizer.encode(list(images))
    print(f"encoded {len(images)} images to codes of shape {tuple(codes.shape)}; codes of the first image:")
    print(codes[0, 0])


if __name__ == "__main__":
    main(*sys.argv[1:])
