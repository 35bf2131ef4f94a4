"""Runs `graphs.py` in a process of its own, without the checks of shapes that no compiler can look into."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

GRAPHS = Path(__file__).with_name("graphs.py")
ROOT = GRAPHS.parents[2]


# The sizes of its other cases add nothing that the graphs of pictures do not have, but minutes. Neither do
# hierarchies and VIMCO with each likelihood: every model's program ends with the mean of the likelihood.
WITH_EACH = "(hierarchy or vimco) and (categorical or gaussian)"
SOME = "every_class or needs_no or 2d or time_strides or per_frame or vqvae-1d or vqvae-3d"
EXPORTED = f"exported and ({SOME}) and not ({WITH_EACH})"


# That each quantizer is one graph, and computes the same, is tested always. To cut its graph into forward and
# backward takes twice the time: always done only for graphs with operations of this package.
EVERY_PARTITION = "test_partitioned_it"
COMPILED = f"not exported and not {EVERY_PARTITION}"


@pytest.mark.parametrize(
    "selected",
    [
        COMPILED,
        EXPORTED,
        pytest.param(EVERY_PARTITION, marks=pytest.mark.slow),
        pytest.param("exported", marks=pytest.mark.slow),
    ],
    ids=["compiled", "exported", "every partition", "every export"],
)
def test_graphs(selected: str):
    options = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", "-k", selected]
    command = [sys.executable, "-m", "pytest", *options, str(GRAPHS)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500, check=False
    )
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
    assert " passed" in ran.stdout
