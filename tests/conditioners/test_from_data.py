"""Columns of the data reach a network: source, store, loader, batch, device, part, conditioner."""

from collections.abc import Mapping
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from smalti.autoregressive.transformer import Transformer
from smalti.conditioners.embedding import Embedding
from smalti.conditioners.projection import Projection
from smalti.core.conditioners import (
    Conditioner,
    check_data_conditions,
    condition_names,
    readable_conditions,
)
from smalti.core.conditions import Batch, Conditions, PerFrame, PerItem, with_label
from smalti.core.errors import InputError
from smalti.data.crops import CropLoader
from smalti.data.ingest import build_store
from smalti.data.loader import Loader
from smalti.data.sources import open_source
from smalti.data.store import Store
from smalti.data.store_layout import Decoded
from smalti.decoders.conv import ConvDecoder
from smalti.modalities.video.clips import EXTENSIONS
from smalti.modalities.video.modality import VideoConfig, VideoModality
from smalti.priors.autoregressive import LearnedPrior
from smalti.priors.uniform import UniformPrior
from tests import videos

CHANNELS, LENGTH, NUM_CODES = 8, 3, 5
KINDS = {"mood": PerItem, "pose": PerItem, "gait": PerFrame, "throttle": PerFrame}


def conditioners() -> Mapping[str, Conditioner]:
    return {
        "mood": Embedding(CHANNELS, num_ids=4),
        "pose": Projection(CHANNELS, dim=2),
        "gait": Embedding(CHANNELS, num_ids=12),
        "throttle": Projection(CHANNELS, dim=2),
    }


@cache
def decoder(ndim: int = 2, **conditions: int) -> ConvDecoder:
    """A decoder that keeps the first axis, with all conditioners or projections of these widths."""
    torch.manual_seed(0)
    given = {name: Projection(CHANNELS, dim) for name, dim in conditions.items()} or conditioners()
    made = ConvDecoder(
        3,
        2,
        ndim,
        channels=CHANNELS,
        residual_channels=4,
        residual_blocks=1,
        strides=(2,),
        time_strides=(1,) if ndim == 3 else (),
        conditioners=given,
    )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made.eval()


def decoded(batch: Batch, conditions: Conditions | None, ndim: int = 2, **widths: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    grid = (LENGTH, *(2,) * (ndim - 1))
    with torch.no_grad():
        return decoder(ndim, **widths)(
            torch.randn(len(batch.data), 3, *grid, generator=generator), conditions
        )


def written(directory, is_ragged: bool) -> Store:
    """Items `(1, F, 2)` whose level tells item and frame, with every kind of column."""
    items = []
    for index in range(4):
        frames = np.arange(LENGTH + is_ragged * index)
        columns = {
            "mood": "abcd"[index],
            "pose": np.array([index, 1.0]),
            "gait": tuple(f"{frame:02d}" for frame in frames + index),
            "throttle": np.stack([frames + 1, 0 * frames + index], 1).astype(np.float32) / 4,
        }
        array = (20 * index + frames).astype(np.uint8).reshape(1, -1, 1) * np.ones((1, 1, 2), np.uint8)
        items.append(Decoded(f"{index}", array, columns=columns))
    shape = (1, None, 2) if is_ragged else (1, LENGTH, 2)
    return Store.write(directory, items, shape, np.uint8)


def expected(batch: Batch) -> Conditions:
    """The conditions of a batch of `written`, computed from its levels alone."""
    levels = batch.data[:, 0, :, 0]
    items, frames = levels[:, 0] // 20, levels % 20
    return Conditions(
        mood=PerItem(items),
        pose=PerItem(torch.stack([items.float(), torch.ones(len(items))], 1)),
        gait=PerFrame(frames + items.unsqueeze(1)),
        throttle=PerFrame(torch.stack([frames + 1.0, items.unsqueeze(1).expand_as(frames)], 2) / 4),
    )


@pytest.fixture(scope="module", params=["loader", "crops"])
def batch(request, tmp_path_factory) -> Batch:
    store = written(tmp_path_factory.mktemp("data") / "s", request.param == "crops")
    if request.param == "loader":
        return Loader(store, indices=np.array([3, 1, 2]), batch_size=6).batch(0)
    return CropLoader(store, np.array([3, 1, 2]), size=(LENGTH,), batch_size=6).batch(0)


def test_the_decoder_gets_the_columns_of_each_item(batch):
    conditions = batch.conditions.to("cpu").part(slice(1, None)).part([4, 0, 2])
    part = Batch(batch.data[1:][[4, 0, 2]], conditions)
    torch.testing.assert_close(decoded(part, part.conditions), decoded(part, expected(part)))


@pytest.mark.parametrize("name", KINDS)
def test_the_decoder_needs_each_column(batch, name):
    conditions = batch.conditions.to("cpu").part(slice(1, None))
    part = Batch(batch.data[1:], conditions)
    assert isinstance(conditions[name], KINDS[name])
    without = conditions.only(*(other for other in conditions if other != name))
    difference = (decoded(part, conditions) - decoded(part, without)).abs().flatten(1)
    assert (difference.amax(1) > 1e-3).all()


VECTORS = [[[0.5, -1.0]] * 2 + [[0.25, 2.0]], [[1.0, 0.0], [0.0, 1.0]], [[-1.0, 3.0]] * 4]
WALKS = [["left", "left", "right"], ["wait", "right"], ["right", "wait", "wait", "left"]]


def episodes(path, vectors=VECTORS, kind: pa.DataType | None = None):
    """A table of episodes with continuous actions."""
    videos.save_episodes(path, WALKS)
    cells = [cell for episode in vectors for cell in episode]
    table = pq.read_table(path)
    pq.write_table(
        table.append_column("action_vector", pa.array(cells, kind or pa.list_(pa.float64()))), path
    )
    return path


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 2), pa.large_list(pa.int8())]
)
def test_continuous_actions_go_from_a_table_of_episodes_to_a_decoder(tmp_path, kind):
    is_whole = pa.types.is_large_list(kind)
    vectors = [[[int(v) for v in cell] for cell in each] for each in VECTORS] if is_whole else VECTORS
    modality = VideoModality(VideoConfig(size=(16, 16)))
    source = open_source(str(episodes(tmp_path / "walks.parquet", vectors, kind)), EXTENSIONS)
    store = build_store(
        tmp_path / "s",
        source,
        "all",
        modality.decode,
        modality.protocol(),
        modality.stored_shape,
        modality.spec.domain.dtype,
        workers=1,
    )
    loader = CropLoader(store, size=(LENGTH,), batch_size=2, to_model=modality.to_model)
    for position, each in enumerate(vectors):
        batch = loader.items(np.array([position]))
        begin = max(0, len(each) - LENGTH) // 2
        crop = each[begin : begin + LENGTH]
        crop = crop + [[0.0, 0.0]] * (LENGTH - len(crop))
        given = Conditions(action_vector=PerFrame(torch.tensor([crop], dtype=torch.float32)))
        whole = batch.conditions.to("cpu")
        assert set(whole) == {"action", "action_vector"}
        assert torch.equal(whole["action_vector"].data, given["action_vector"].data)
        outputs = [decoded(batch, each, 3, action_vector=2) for each in (whole, given, None)]
        assert torch.equal(outputs[0], outputs[1])
        assert not torch.equal(outputs[1], outputs[2])


def network() -> Transformer:
    torch.manual_seed(0)
    return Transformer(NUM_CODES, channels=CHANNELS, layers=1, heads=2, conditioners=conditioners())


def test_names_that_modules_read():
    assert condition_names(decoder()) == set(KINDS)
    assert readable_conditions(decoder()) == set(KINDS)
    assert condition_names(torch.nn.ModuleList([torch.nn.Linear(1, 1)])) == set()
    labelled = Transformer(NUM_CODES, conditions={"label": 2}, channels=CHANNELS, layers=1, heads=2)
    assert (condition_names(labelled), readable_conditions(labelled)) == (set(), {"label"})


def test_a_part_that_reads_conditions_itself_names_them():
    class Own(torch.nn.Module):
        condition_names = ("tempo",)

    assert condition_names(torch.nn.Sequential(Own())) == {"tempo"}


def test_data_without_a_condition_of_the_model_is_refused():
    check_data_conditions(decoder(), [*KINDS, "more"])
    with pytest.raises(InputError) as error:
        check_data_conditions(decoder(), ["mood", "pose", "gait", "label"])
    assert all(name in str(error.value) for name in ("'throttle'", "gait, label, mood, pose"))


def test_a_prior_refuses_names_that_it_does_not_read():
    prior = LearnedPrior(network().eval(), (2, 2))
    given = Conditions(mood=PerItem(torch.tensor([1])))
    assert prior.sample(1, given).shape == (1, 1, 2, 2)
    for unknown in ("modd", "action"):
        value = PerFrame(torch.zeros(1, 2).long()) if unknown == "action" else given["mood"]
        with pytest.raises(InputError) as error:
            prior.sample(1, Conditions(**given, **{unknown: value}))
        assert all(name in str(error.value) for name in (f"'{unknown}'", *KINDS))
    with pytest.raises(InputError, match="'mood'"):
        UniformPrior(NUM_CODES, 1, (2, 2)).sample(1, given)
    # Scoring takes the conditions of the data, which may have more columns.
    more = Conditions(**given, tempo=given["mood"])
    assert prior.log_prob(torch.zeros(1, 1, 2, 2).long(), more).shape == (1,)


def test_a_class_and_labels_are_not_both_given():
    assert with_label(Conditions(), 2, 3)["label"].data.tolist() == [2, 2, 2]
    labels = Conditions(label=torch.tensor([0, 1]))
    assert with_label(labels, -1, 2) is labels
    with pytest.raises(InputError, match="both"):
        with_label(labels, 1, 2)
