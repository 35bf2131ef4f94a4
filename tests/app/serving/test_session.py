"""What the page computes, without a browser."""

from __future__ import annotations

import base64
import re
import socket
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import soundfile
import torch
from fastapi.testclient import TestClient
from PIL import Image

from smalti.app.serving.atlas import single_codes, tile_pictures
from smalti.app.serving.code_map import HOLE, edited, planes
from smalti.app.serving.codebook import atlas_of, code_vectors, nearest, neighbours_of, use_of
from smalti.app.serving.compare import compared, learning_curves
from smalti.app.serving.generate import ANY, EMPTY, Request, priors, stages
from smalti.app.serving.look import changed, chosen_code, results, undone
from smalti.app.serving.media import MOST_SECONDS, read_upload
from smalti.app.serving.models import load_models
from smalti.app.serving.server import build_app, free_socket, temporary_uploads
from smalti.app.serving.session import encoded
from smalti.core.errors import InputError
from smalti.priors.masked import MaskedPrior
from tests import videos


def event(**data):
    return gr.EventData(None, data)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def item(models, picture):
    served = models["fashion-mnist"]
    return encoded(served, read_upload(served, picture))


def request(prior="learned", **settings):
    return replace(Request(*EMPTY), prior=prior, **settings)


@pytest.mark.parametrize("grid", [(5,), (3, 4), (2, 3, 4)])
def test_planes_keep_the_order_of_the_codes(grid):
    codes = torch.arange(2 * torch.Size(grid).numel()).view(1, 2, *grid)
    made = planes(codes, 100)
    assert made["codes"] == list(range(codes.numel()))
    assert len(made["titles"]) * made["rows"] * made["cols"] == codes.numel()


def test_edits_out_of_range_change_nothing():
    codes = torch.arange(6).view(1, 1, 2, 3)
    assert torch.equal(edited(codes, [[6, 1], [-1, 1], [0, 9], [1, -2]], 9), codes)
    assert edited(codes, [[2, 8], [3, HOLE]], 9).flatten().tolist() == [0, 1, 8, HOLE, 4, 5]


def test_a_stroke_changes_the_codes_and_the_reconstruction(item):
    before = item.decoded()
    after, shown, figures = changed(item, event(edits=[[0, (int(item.codes.flatten()[0]) + 1) % 512]]))
    assert (after.codes != item.codes).sum() == 1
    assert not torch.equal(after.decoded(), before)
    assert shown != results(item)[0]
    assert "codes changed" in figures
    assert torch.equal(undone(after)[0].codes, item.codes)


def test_own_size_keeps_each_pixel(models, picture):
    served = models["trained"]
    item = encoded(served, read_upload(served, picture, own_size=True), own_size=True)
    assert item.signal is not None
    assert item.signal.shape[2:] == item.decoded().shape[2:] == (40, 30)


def test_figures_are_those_of_the_model(item):
    nats = -item.tokenizer.learned.log_prob(item.codes)
    figures = dict(re.findall(r"<td>(.*?)</td><td>(.*?)</td>", results(item)[1]))
    assert float(figures["bits under learned"]) == pytest.approx(nats.item() / np.log(2), abs=0.5)
    assert float(figures["bits of the codes"]) == item.codes.numel() * 9


def test_uploads_are_deleted_also_if_they_cannot_be_read(models, picture, tmp_path):
    read_upload(models["fashion-mnist"], picture)
    text, empty = tmp_path / "text.png", tmp_path / "empty.wav"
    text.write_text("no picture")
    empty.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read"):
        read_upload(models["fashion-mnist"], text)
    with pytest.raises(InputError, match="cannot be read"):
        read_upload(models["spoken-digits"], empty)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_a_long_recording_is_refused_before_it_is_decoded(models, tmp_path, monkeypatch, ending):
    path = tmp_path / f"long.{ending}"
    soundfile.write(path, np.zeros((MOST_SECONDS + 10) * 8000, np.float32), 8000, subtype="PCM_16")
    monkeypatch.setattr(type(models["spoken-digits"].tokenizer.modality), "decode", None)
    with pytest.raises(InputError, match="at most 60 seconds"):
        read_upload(models["spoken-digits"], path)
    assert not path.exists()


def test_a_large_picture_is_refused_in_its_own_size_only(models, tmp_path):
    path = tmp_path / "large.png"
    Image.new("L", (1100, 1000)).save(path)
    with pytest.raises(InputError, match="pixels"):
        read_upload(models["trained"], path, own_size=True)
    Image.new("L", (1100, 1000)).save(path)
    assert read_upload(models["trained"], path).shape[2:] == (16, 16)


def test_stages_end_with_what_the_prior_draws(models):
    served = models["fashion-mnist"]
    drawn = list(stages(served, request(num=3, seed=5, class_name="Sneaker")))
    expected = served.tokenizer.sample_codes(3, "Sneaker", seed=5)
    assert torch.equal(drawn[-1], expected)
    holes = [int((stage == HOLE).sum()) for stage in drawn]
    assert holes == sorted(holes, reverse=True)
    assert holes[0] > 0
    assert len(drawn) > 5
    flat = drawn[0][0].flatten()
    assert torch.equal(flat == HOLE, torch.arange(len(flat)) >= (flat != HOLE).sum()), "row by row"


@pytest.mark.parametrize("name", ["fashion-mnist", "spoken-digits", "trained", "walks"])
def test_each_prior_of_a_model_draws(models, name):
    served = models[name]
    for prior in priors(served):
        *_, drawn = stages(served, request(prior, num=2))
        assert drawn.shape[:2] == (2, served.tokenizer.autoencoder.num_codebooks)
        assert (drawn >= 0).all()


@pytest.mark.parametrize(
    "settings", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -3}, {"guidance": -1.0}]
)
def test_settings_of_a_fill_are_checked(models, item, settings):
    codes = item.codes.clone()
    codes[0, 0, 0] = HOLE
    with pytest.raises(InputError):
        list(stages(models["fashion-mnist"], request(**settings), codes))


def test_an_upload_that_is_gone_is_said(models, tmp_path):
    with pytest.raises(InputError, match="gone"):
        read_upload(models["fashion-mnist"], tmp_path / "none.png")


def test_holes_are_filled_and_the_other_codes_stay(models, item):
    served, codes = models["fashion-mnist"], item.codes.clone()
    codes[0, 0, 2:5] = HOLE
    *_, drawn = stages(served, request(num=2, seed=1), codes)
    kept = (codes != HOLE).expand_as(drawn)
    assert torch.equal(drawn[kept], codes.expand_as(drawn)[kept])
    assert (drawn[~kept] >= 0).all()
    assert not torch.equal(drawn[0], drawn[1])


def test_a_masked_prior_fills_in_its_rounds(models):
    served = models["trained"]
    tokenizer = served.tokenizer
    model = tokenizer.autoencoder
    masked = MaskedPrior(
        model.num_codes, model.num_codebooks, model.grid, {}, channels=16, layers=1, rounds=4
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tokenizer.priors, "masked", masked)
        assert priors(served)[-1] == "learned"
        drawn = list(stages(served, request("masked", num=2, seed=3)))
    assert len(drawn) == 5, "before the first of four rounds, and after each"
    assert (drawn[0] == HOLE).all()
    assert (drawn[-1] >= 0).all()


def test_clips_follow_actions(models):
    served = models["walks"]
    *_, drawn = stages(served, request(num=1, actions="left*3 right"))
    assert drawn.shape[2:] == served.tokenizer.autoencoder.grid
    with pytest.raises(InputError, match="actions of this model"):
        next(stages(served, request(actions="fly")))
    with pytest.raises(InputError, match="reads none"):
        next(stages(models["fashion-mnist"], request(actions="left")))


@pytest.mark.parametrize(
    "settings",
    [{"num": 0}, {"num": 17}, {"prior": "none"}, {"temperature": -1.0}, {"class_name": "no such class"}],
)
def test_settings_out_of_range_are_refused(models, settings):
    with pytest.raises(InputError):
        list(stages(models["fashion-mnist"], request(**settings)))


def test_a_length_out_of_range_is_refused(models):
    with pytest.raises(InputError, match="length"):
        list(stages(models["spoken-digits"], request(length=1e9)))


def test_cleared_fields_have_their_defaults():
    assert Request.of(*[None] * len(EMPTY)) == Request(*EMPTY)
    assert Request(*EMPTY).chosen_class is None
    assert Request(*EMPTY).class_name == ANY


def test_a_code_of_a_sound_is_played(models, tmp_path):
    path = tmp_path / "tone.wav"
    soundfile.write(path, 0.3 * np.sin(np.arange(8000) / 5).astype(np.float32), 8000)
    served = models["spoken-digits"]
    item = encoded(served, read_upload(served, path))
    played = chosen_code(item, event(place=3, code=7))
    found = re.search(r"data:audio/wav;base64,([^\"]+)", played)
    assert found
    assert len(base64.b64decode(found[1])) > 2000
    with pytest.raises(InputError):
        chosen_code(item, event(place=10**6, code=7))


def test_nearest_codes_are_those_of_a_search_one_by_one(models):
    vectors = code_vectors(models["fashion-mnist"])[0]
    order, distances = nearest(vectors, 9)
    values = vectors.double().numpy()
    every = np.array([np.sqrt(((one - values[9]) ** 2).sum()) for one in values])
    assert order[0] == 9
    assert np.allclose(distances, np.sort(every)[: len(order)], atol=1e-4)
    assert "distance" in neighbours_of(models["fashion-mnist"], 1, 9)
    with pytest.raises(InputError, match="expected a codebook"):
        neighbours_of(models["fashion-mnist"], 2, 9)


def test_tiles_are_decoded_codes(models):
    served = models["fashion-mnist"]
    tiles = tile_pictures(served.tokenizer)
    assert tiles is not None
    assert tiles.shape == (512, 4, 4, 3)
    codes = single_codes(served.tokenizer, (3, 3))[40:41]
    assert codes.unique().tolist() == [40]
    whole = served.tokenizer.native().decode(codes)
    assert np.array_equal(tiles[40, ..., 0], whole[0, 0, 4:8, 4:8].numpy())
    assert tile_pictures(models["spoken-digits"].tokenizer) is None


@pytest.mark.parametrize("name", ["fashion-mnist", "spoken-digits", "walks"])
def test_each_model_has_a_codebook_to_look_at(models, name):
    assert "perplexity" in use_of(models[name])
    assert ("tile" in atlas_of(models[name])) == (name != "spoken-digits")


def test_models_of_one_medium_are_compared(models, picture):
    made = compared([models["fashion-mnist"], models["trained"]], str(picture))
    assert made.count("from the codes</figcaption>") == 2
    assert not picture.exists()
    curves = learning_curves([models["trained"], models["fashion-mnist"]])
    assert "learning curves" in curves
    assert "fashion-mnist" in curves, "has none"


def test_models_of_different_media_are_not_compared(models, picture):
    with pytest.raises(InputError, match="medium"):
        compared([models["fashion-mnist"], models["walks"]], str(picture))
    assert not picture.exists()


def test_a_clip_is_shown(models, tmp_path):
    path = videos.save(tmp_path / "clip", videos.moving(8, 16, 16))
    served = models["walks"]
    item = encoded(served, read_upload(served, path))
    assert "data:video/mp4" in results(item)[0]
    assert len(item.map()["titles"]) == item.codes.shape[1] * item.codes.shape[2]


def test_runs_of_codes_are_not_served(monkeypatch):
    spec = SimpleNamespace(has_pictures=True, is_continuous=False, channels=512)
    modality = SimpleNamespace(sample_rate_hz=None, plural_name="grids of codes")
    codes = SimpleNamespace(modality=modality, autoencoder=SimpleNamespace(signal=spec))
    monkeypatch.setattr("smalti.app.serving.models.load", lambda _: codes)
    with pytest.raises(InputError, match="pictures, recordings or clips"):
        load_models(["second"])


def test_models_of_one_name_are_told_apart(trained):
    assert list(load_models([str(trained)] * 2)) == ["trained", "trained (2)"]


def test_a_port_in_use_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="free port"):
            free_socket("127.0.0.1", taken.getsockname()[1])


@pytest.fixture
def client(models):
    """The page as a program sees it, on the loopback address."""
    with temporary_uploads(), TestClient(build_app(models, "127.0.0.1"), base_url="http://127.0.0.1") as one:
        yield one


def test_files_that_were_not_uploaded_are_not_read(client, picture):
    settings = client.get("/config").json()
    (look,) = [each["id"] for each in settings["dependencies"] if each["targets"][0][1] == "upload"][:1]
    file = {"path": str(picture), "meta": {"_type": "gradio.FileData"}}
    sent = {"data": ["trained", file, "its own size", None], "fn_index": look, "session_hash": "one"}
    assert client.post("/gradio_api/queue/join", json=sent).status_code == 200
    answer = client.get("/gradio_api/queue/data", params={"session_hash": "one"}).text
    assert "data:image" not in answer
    assert "process_completed" in answer
    assert picture.exists()
    assert client.post("/gradio_api/run/predict", json=sent).status_code == 404, "past the queue"


def test_requests_of_other_sites_are_refused(client):
    files = {"files": ("a.png", b"x")}
    assert (
        client.post("/gradio_api/upload", files=files, headers={"Origin": "https://a.org"}).status_code == 403
    )
    assert client.post("/gradio_api/upload", files=files, headers={"Origin": "http://127.0.0.1"}).is_success
    assert client.get("/gradio_api/deep_link?session_hash=a").status_code == 403
    assert client.get("/gradio_api/file=https://example.org").status_code == 403
    assert client.get("/", headers={"Host": "example.org"}).status_code == 400
