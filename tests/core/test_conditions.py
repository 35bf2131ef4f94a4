"""Named conditions: values of every kind survive each change, and wrong ones are refused."""

from collections.abc import Callable

import pytest
import torch

from smalti.core.conditions import (
    Conditions,
    ConditionValue,
    DenseField,
    PerFrame,
    PerItem,
    TokenSequence,
    id_sizes,
)
from smalti.core.errors import InputError


def every_kind(count: int = 3) -> dict[str, ConditionValue]:
    """A value of each kind, of ids and of vectors; the same at every call."""
    torch.manual_seed(0)
    mask = torch.rand(count, 5) < 0.5
    return {
        "label": PerItem(torch.arange(count) - 1),
        "voice": PerItem(torch.randn(count, 4)),
        "action": PerFrame(torch.randint(-1, 3, (count, 6))),
        "throttle": PerFrame(torch.randn(count, 6, 2)),
        "text": TokenSequence(torch.randint(9, (count, 5)), mask),
        "caption": TokenSequence(torch.randn(count, 5, 2), mask),
        "local": DenseField(torch.randn(count, 2, 3, 1)),
    }


def tensors(value: ConditionValue) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in vars(value).items() if tensor is not None}


def check_each(conditions: Conditions, expected: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Every tensor of every condition is there, and is what it should be."""
    values = every_kind()
    assert list(conditions) == list(values)
    for name, value in conditions.items():
        before, after = tensors(values[name]), tensors(value)
        assert type(value) is type(values[name])
        assert before.keys() == after.keys()
        for part, tensor in after.items():
            assert torch.equal(tensor, expected(before[part])), (name, part)


def test_every_condition_is_moved_to_another_device():
    moved = Conditions(**every_kind()).to("meta")
    assert list(moved) == list(every_kind())
    for name, value in moved.items():
        before, after = tensors(every_kind()[name]), tensors(value)
        assert before.keys() == after.keys()
        assert {tensor.device.type for tensor in after.values()} == {"meta"}
        assert [t.shape for t in after.values()] == [t.shape for t in before.values()]


@pytest.mark.parametrize(
    "items", [slice(1, None), slice(0, 0), [2, 0], torch.tensor([1]), torch.tensor([True, False, True])]
)
def test_every_condition_has_a_part(items):
    check_each(Conditions(**every_kind()).part(items), lambda tensor: tensor[items])


def test_every_condition_is_repeated_item_by_item():
    check_each(Conditions(**every_kind()).repeat(2), lambda tensor: tensor[[0, 0, 1, 1, 2, 2]])


def test_frames_cut_what_is_one_a_frame_and_keep_the_rest():
    conditions = Conditions(**every_kind())
    cut = conditions.frames(slice(2, 5), 6)
    assert list(cut) == list(conditions)
    for name, value in conditions.items():
        expected = value.data[:, 2:5] if name in ("action", "throttle") else value.data
        # Each of its 3 rows covers two frames.
        expected = value.data[:, :, [1, 1, 2]] if name == "local" else expected
        assert torch.equal(cut[name].data, expected)
    assert cut["text"] is conditions["text"]


def test_conditions_of_clips_are_those_of_their_frames():
    conditions = Conditions(**{name: value for name, value in every_kind().items() if name != "action"})
    frames = conditions.by_frame(6)
    for name, value in conditions.items():
        for frame in range(6):
            own = frames[name].each(lambda tensor, frame=frame: tensor[frame::6])
            expected = value.data[:, frame] if name == "throttle" else value.data
            expected = value.data[:, :, frame // 2] if name == "local" else expected
            assert torch.equal(own.data, expected)
    assert isinstance(frames["throttle"], PerItem)
    text, whole = frames["text"], conditions["text"]
    assert isinstance(text, TokenSequence)
    assert isinstance(whole, TokenSequence)
    assert text.mask is not None
    assert whole.mask is not None
    assert torch.equal(text.mask, whole.mask.repeat_interleave(6, 0))


def test_conditions_of_another_number_of_frames_are_refused():
    for name in ("throttle", "local"):
        conditions = Conditions(**every_kind()).only(name)
        for change in (lambda given: given.by_frame(8), lambda given: given.frames(slice(0, 2), 8)):
            with pytest.raises(InputError, match=name):
                change(conditions)


def test_conditions_by_name():
    conditions = Conditions(**every_kind())
    assert list(conditions.only("voice", "absent", "label")) == ["voice", "label"]
    assert conditions.tensor("absent") is None
    more = Conditions(**conditions.only("label"), local=torch.zeros(3, 1, 2))
    assert list(more) == ["label", "local"]
    assert isinstance(more["local"], DenseField)
    assert Conditions(label=None) == Conditions()
    with pytest.raises(TypeError):
        conditions["label"] = PerItem(torch.zeros(3).long())  # pyright: ignore[reportIndexIssue]


def test_a_sequence_of_lengths_is_masked_after_its_end():
    sequence = TokenSequence.with_lengths(torch.zeros(3, 4, 2), torch.tensor([0, 2, 4]))
    assert sequence.mask is not None
    assert sequence.mask.sum(1).tolist() == [0, 2, 4]
    assert sequence.mask[1].tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("kind", "shape", "dtype"),
    [
        (PerItem, (3, 2), torch.int64),
        (PerItem, (3,), torch.float32),
        (PerItem, (3,), torch.int32),
        (PerFrame, (3,), torch.int64),
        (PerFrame, (3, 2), torch.float32),
        (TokenSequence, (3, 2, 2), torch.int64),
        (DenseField, (3, 2), torch.float32),
        (DenseField, (3, 2, 4), torch.int64),
    ],
)
def test_a_value_of_another_shape_or_type_is_refused(kind, shape, dtype):
    with pytest.raises(InputError) as error:
        kind(torch.zeros(shape, dtype=dtype))
    assert str(shape) in str(error.value)


def test_conditions_without_a_known_kind_are_refused():
    with pytest.raises(InputError, match="text"):
        Conditions(text=torch.zeros(2, 3).long())
    with pytest.raises(InputError, match="PerItem"):
        Conditions(label=PerFrame(torch.zeros(2, 3).long()))
    with pytest.raises(InputError, match="mask"):
        TokenSequence(torch.zeros(2, 3).long(), torch.ones(2, 4).bool())


def test_sizes_of_the_conditions_that_a_module_embeds():
    given = {"label": 3, "action": 0, "mood": 4}
    assert id_sizes(given, "label", "action") == {"label": 3}
    assert id_sizes(None, "label") == {}
    with pytest.raises(InputError):
        id_sizes({"label": -1}, "mood")
