"""ONNX files beside the model, on a whole split: `python benchmarks/exported.py RUN EXPORTED --data DATA`.

EXPORTED is the output of `smalti export RUN --onnx`. Counts the codes that differ, and the largest difference
of decoded values, and adds a record to `results/exports.jsonl`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime
import torch
import typer

from smalti.app.data import open_data
from smalti.app.provenance import commit, device
from smalti.studies.records import Record, read_records, write_records
from smalti.tokenizer import load

RECORDS = Path(__file__).parents[1] / "results" / "exports.jsonl"
BATCH = 100


@torch.no_grad()
def main(
    run: Annotated[Path, typer.Argument(help="The run.")],
    exported: Annotated[Path, typer.Argument(help="Folder with encode.onnx and decode.onnx.")],
    data: Annotated[str, typer.Option(help="Pictures, as given to smalti train.")],
    dataset: Annotated[str, typer.Option(help="Name in the record.")],
    split: Annotated[str, typer.Option(help="Split to use.")] = "test",
) -> None:
    """Compare codes and decoded values."""
    tokenizer = load(run, "cpu")
    model, modality = tokenizer.autoencoder, tokenizer.modality
    encode, decode = (
        onnxruntime.InferenceSession(exported / f"{name}.onnx") for name in ("encode", "decode")
    )
    source = open_data(data, modality)
    num, codes_in_all, codes_apart, apart = source.count(split), 0, 0, 0.0
    for begin in range(0, num, BATCH):
        items = source.section(split, begin, min(begin + BATCH, num))
        pictures = torch.stack([torch.from_numpy(modality.decode(item.content)) for item in items])
        signals = modality.check(pictures)
        codes = model.encode(signals)
        (received,) = encode.run(None, {"signal": signals.numpy()})
        codes_in_all += codes.numel()
        codes_apart += int((received != codes.numpy()).sum())
        decoded = model.decode(codes).numpy()
        labels = {"label": np.full(len(codes), -1)} if model.num_label_classes else {}
        (received,) = decode.run(None, {"codes": codes.numpy(), **labels})
        apart = max(apart, float(np.abs(received - decoded).max()))
    record: Record = {
        "experiment": "exports",
        "dataset": dataset,
        "split": split,
        "model": tokenizer.fingerprint,
        "num": num,
        "metrics": {"codes": codes_in_all, "codes_apart": codes_apart, "largest_difference": apart},
        "device": device(),
        "commit": commit(),
        "versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
    }
    others = [one for one in read_records(RECORDS) if one["dataset"] != dataset] if RECORDS.exists() else []
    write_records(RECORDS, [*others, record])
    print(record["metrics"])


if __name__ == "__main__":
    typer.run(main)
