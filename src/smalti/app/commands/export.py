"""`smalti export`: a run for other programs, with a model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from smalti.app.console import note
from smalti.app.model_card import model_card
from smalti.core.errors import InputError
from smalti.core.files import atomic_file
from smalti.core.pretrained import check_no_run
from smalti.models.onnx import save_onnx
from smalti.models.programs import save_programs
from smalti.trained import load_trained

CARD = "README.md"
CARD_MARK = "library_name: smalti"
"""A line of every card, which other files of that name do not have."""
PICTURES = {
    "reconstructions_evaluation.png": "Held-out data, and their reconstructions below",
    "reconstructions.png": "Originals, and their reconstructions below",
    "codes.png": "Originals, and maps of their codes below",
}
"""Figures of a run for its card, with their descriptions; the first one that exists of the first two."""


def export(
    run: str,
    out: Path,
    formats: Sequence[str],
    licence: str | None = None,
    bf16: bool = False,
    quiet: bool = False,
) -> list[str]:
    """Write a run in some formats, and a card; return the names of the files and folders.

    The same command may be repeated: it writes its files again.

    Args:
        run: a run's directory, or a name on the Hub.
        out: output directory; files of the same names are replaced.
        formats: of "onnx" (`encode.onnx`, `decode.onnx`), "torch" (`encode.pt2`, `decode.pt2`) and
            "transformers" (what `smalti.load` and `AutoModel` read).
        licence: identifier for the card, such as "mit".
        bf16: whether to round the weights to bfloat16, and to store them so for "transformers".
        quiet: hide notes.

    Raises:
        InputError: without a format, for a model without codes, or one that has no such form.
    """
    if not formats:
        raise InputError("expected a format, received none: add --onnx, --torch or --transformers")
    check_no_run(out)
    if Path(run).expanduser().resolve() == out.resolve():
        raise InputError(
            f"expected another directory than that of the model, received {out}: choose another --out"
        )
    if (out / CARD).is_file() and CARD_MARK not in (out / CARD).read_text(errors="replace"):
        raise InputError(f"expected no other {CARD} in {out}, the name of the card: choose another --out")
    trained = load_trained(run, "cpu")
    figures = trained.directory / "figures"
    found = [(text, name) for name, text in PICTURES.items() if (figures / name).is_file()]
    if len(found) == len(PICTURES):
        found.pop(1)
    of_weights = (
        "The weights in these files are rounded to bfloat16; all figures are of those before."
        if bf16
        else None
    )
    # Before any file is written, since it refuses a licence or an evaluation.
    model_card(trained, formats, found, licence)
    written = trained.rounded(torch.bfloat16) if bf16 else trained
    model = written.autoencoder
    if "transformers" in formats:
        written.save(out, torch.bfloat16 if bf16 else None)
    out.mkdir(parents=True, exist_ok=True)
    has_free_size = False
    if "torch" in formats:
        has_free_size = save_programs(model, out)
    if "onnx" in formats:
        about = {"smalti": written.fingerprint, "recipe": trained.recipe.name}
        if model.num_label_classes:
            about["classes"] = json.dumps(trained.classes)
        has_free_size = save_onnx(model, out, about)
    for _, name in found:
        with atomic_file(out / name) as temporary:
            shutil.copyfile(figures / name, temporary)
    card = model_card(trained, formats, found, licence, has_free_size, of_weights)
    with atomic_file(out / CARD) as temporary:
        temporary.write_text(card, encoding="utf-8")
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    sizes = ", for signals of any size" if has_free_size else ""
    note(f"{out} holds {', '.join(names)}{sizes}.", quiet)
    return names
