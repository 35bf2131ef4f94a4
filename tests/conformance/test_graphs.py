"""Runs `graphs.py` in a process of its own, without the checks of shapes that no compiler can look into."""

from pathlib import Path

import pytest

from tests import forked

GRAPHS = Path(__file__).with_name("graphs.py")
ROOT = GRAPHS.parents[2]
# More threads are processes that import torch, for one graph.
VARIABLES = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}


# The sizes of its other cases add nothing that the graphs of pictures do not have, but minutes. Neither do
# hierarchies and VIMCO with each likelihood: every model's program ends with the mean of the likelihood.
WITH_EACH = "(hierarchy or vimco) and (categorical or gaussian)"
# These encode as others do: estimators are for training, and codebooks `gradient` and `ema` are both a table.
ENCODE_AS_OTHERS = "rotation or diveq or nsvq or vqvae-gradient"
SOME = "every_class or needs_no or 2d or time_strides or per_frame or vqvae-1d or vqvae-3d"
EXPORTED = f"exported and ({SOME}) and not ({WITH_EACH}) and not ({ENCODE_AS_OTHERS})"


# That each quantizer is one graph, and computes the same, is tested always. To cut its graph into forward and
# backward takes twice the time: always done only for graphs with operations of this package.
EVERY_PARTITION = "test_partitioned_it"
# Their graphs repeat those of `lfq-grouped` and `bsq` for more bits, and that of `vq-diveq` for each stage.
REPETITIVE = "many-codes or residual-diveq"
# Evaluation is part of each exported graph, and generated code is torch's own.
IN_OTHERS = "evaluation or generated"
COMPILED = f"not exported and not {EVERY_PARTITION} and not ({REPETITIVE}) and not ({IN_OTHERS})"


@pytest.mark.parametrize(
    "selected",
    [
        COMPILED,
        EXPORTED,
        pytest.param(EVERY_PARTITION, marks=pytest.mark.slow),
        pytest.param(f"compiled and ({REPETITIVE}) or ({IN_OTHERS})", marks=pytest.mark.slow),
        pytest.param("exported", marks=pytest.mark.slow),
    ],
    ids=["compiled", "exported", "every partition", "repetitive", "every export"],
)
def test_graphs(selected: str):
    options = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", "-k", selected]
    printed = forked.run("-m", "pytest", *options, GRAPHS, folder=ROOT, variables=VARIABLES, timeout=1500)
    assert " passed" in printed
