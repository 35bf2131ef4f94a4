"""The command `smalti diagnose`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.app.recipes import get_recipe
from smalti.app.recipes.overrides import override
from smalti.core.conditions import Batch
from smalti.core.signals import SignalSpec
from smalti.evaluation.diagnosis.drawing import draw_diagnosis
from smalti.evaluation.diagnosis.finding import SEVERITIES
from smalti.evaluation.diagnosis.measurements import measure_codebooks
from smalti.models.hierarchy import HierarchyConfig
from tests.evaluation.spoiled import SETTING
from tests.runs import digests


def test_findings_are_printed_and_saved(run, smalti):
    before = digests(run)
    result = smalti("diagnose", run, "--quiet")
    assert result.status == 0
    report = json.loads((run / "diagnosis.json").read_text())
    after = digests(run)
    assert {name for name in after if after[name] != before.get(name)} == {
        "diagnosis.json",
        str(Path("figures") / "diagnosis.png"),
    }
    assert report["training"] == "38 items of 38 of the run"
    (codebook,) = report["codebooks"]
    assert codebook["training"]["num_tokens"] == codebook["num_tokens"] == 38 * 16
    assert codebook["held_out"]["num_tokens"] == 2 * 16
    found = [SEVERITIES.index(each["severity"]) for each in report["findings"]]
    assert found == sorted(found)
    for number, finding in enumerate(report["findings"], 1):
        assert f"{number}. {finding['name']}" in result.out
        settings = SETTING.findall(finding["advice"])
        override(get_recipe("image"), settings)  # as a user would


def test_a_dead_codebook_is_named_and_its_settings_exist(run, smalti):
    from safetensors.torch import load_file, save_file

    tensors = load_file(run / "model.safetensors")
    tensors["quantizer.codebook.codes"][:, 3:] = 1e4
    save_file(tensors, run / "model.safetensors")
    report = json.loads(smalti("diagnose", run, "--json").out)
    finding = next(each for each in report["findings"] if each["name"] in ("dead-codes", "collapse"))
    assert "model.quantizer.codebook.revive_after=20" in SETTING.findall(finding["advice"])
    override(get_recipe("image"), SETTING.findall(finding["advice"]))


def test_held_out_data_and_another_directory(run, pictures, tmp_path, smalti):
    before = digests(run)
    result = smalti("diagnose", run, "--data", pictures, "--out", tmp_path / "found", "--json")
    report = json.loads(result.out)
    assert report == json.loads((tmp_path / "found" / "diagnosis.json").read_text())
    assert report["codebooks"][0]["held_out"]["num_tokens"] == 40 * 16
    assert digests(run) == before


def test_a_run_without_its_data(run, pictures, smalti, mistake):
    shutil.rmtree(run / "data")
    assert "--data" in mistake("diagnose", run)
    report = json.loads(smalti("diagnose", run, "--data", pictures, "--json").out)
    (codebook,) = report["codebooks"]
    assert codebook["training"]["num_tokens"] == 40 * 16
    assert codebook["held_out"] is None
    assert codebook["num_tokens"] is None


def test_a_split_without_data_is_refused(run, mistake):
    before = digests(run)
    assert "--split" in mistake("diagnose", run, "--split", "test")
    assert digests(run) == before


def test_a_diagnosis_that_cannot_be_saved_is_printed(run, smalti):
    (run / "figures").rename(run / "elsewhere")
    (run / "figures").write_text("a file")
    result = smalti("diagnose", run, "--json")
    assert result.status == 0
    assert json.loads(result.out)["codebooks"]
    assert "not saved" in " ".join(result.err.split())


@pytest.mark.usefixtures("drawn_figures")
def test_each_level_has_a_row_of_panels(tmp_path):
    spec = SignalSpec(channels=3, size=(16, 16), levels=256)
    model = HierarchyConfig.tiny().build(spec)
    batch = Batch(torch.rand(4, 3, 16, 16) * 2 - 1)
    metrics = [{"step": step, "split": "train", "commitment_0": 0.1 / step} for step in (1, 2)]
    draw_diagnosis(measure_codebooks(model, [batch], [batch], 4, metrics), tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        pixels = np.asarray(image.convert("L"))
    height, width = (int(side) for side in pixels.shape)
    for row in range(2):
        inside = pixels[int((row + 0.2) * height / 2) : int((row + 0.8) * height / 2)]
        panels = [inside[:, int((n + 0.3) * width / 4) : int((n + 0.9) * width / 4)] for n in range(4)]
        # The last column has the terms of the loss, once; the others have a panel per level.
        assert [bool(panel.min() < 200) for panel in panels] == [True, True, True, row == 0]
