"""Tables of phone alignments: the phone at a time against a search over all rows, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.core.errors import InputError
from smalti.studies.speech.alignments import Alignments, Segment

FRAMES = """utt\tspeaker\tstart_frame\tend_frame\tphone
a1\tanna\t0\t35\tSIL
a1\tanna\t35\t57\tAY
b1\tbert\t7\t9\tT
a1\tanna\t60\t71\tIY
"""


def read(tmp_path: Path, text: str) -> Alignments:
    path = tmp_path / "phones.tsv"
    path.write_text(text, encoding="utf-8")
    return Alignments.read(path)


def test_frames_of_ten_milliseconds(tmp_path):
    alignments = read(tmp_path, FRAMES)
    assert alignments.utterances == ("a1", "b1")
    assert alignments.phones == ("AY", "IY", "SIL", "T")
    assert alignments.segments("a1") == (
        Segment(0.0, 0.35, "SIL"),
        Segment(0.35, 0.57, "AY"),
        Segment(0.6, 0.71, "IY"),
    )
    assert (alignments.speaker("a1"), alignments.speaker("b1")) == ("anna", "bert")


def test_a_start_belongs_to_its_segment_and_an_end_does_not(tmp_path):
    times = [0.0, 0.35, 0.34, 0.57, 0.59, 0.6, 0.71, -1.0, 99.0]
    labels = read(tmp_path, FRAMES).labels_at("a1", times)
    assert labels == ["SIL", "AY", "SIL", None, None, "IY", None, None, None]
    assert read(tmp_path, FRAMES).labels_at("b1", np.array([0.06, 0.08])) == [None, "T"]
    assert read(tmp_path, FRAMES).labels_at("b1", []) == []


@pytest.mark.parametrize(
    ("column", "value"), [("utt", "a.b"), ("utterance", "a.b"), ("file", "train/x/a.b.wav")]
)
def test_items_are_found_by_stem(tmp_path, column, value):
    alignments = read(tmp_path, f"{column}\tstart\tend\tphone\n{value}\t0.125\t0.5\tAA\n")
    for name in ("a.b", "elsewhere/a.b.flac", "a.b.wav"):
        assert name in alignments
        assert alignments.labels_at(name, [0.2]) == ["AA"]
        assert alignments.speaker(name) is None
    assert "b" not in alignments
    with pytest.raises(InputError, match="expected an alignment of 'b'"):
        alignments.labels_at("b", [0.2])


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=12),
    st.lists(st.integers(-5, 500), max_size=20),
    st.randoms(use_true_random=False),
)
def test_any_table_against_a_search_over_all_rows(tmp_path_factory, gaps, frames, random):
    rows, end = [], 0
    for index, (gap, length) in enumerate(gaps):
        rows.append((end + gap, end + gap + length, f"P{index % 3}"))
        end += gap + length
    shuffled = rows.copy()
    random.shuffle(shuffled)
    lines = ["utt\tstart_frame\tend_frame\tphone", *(f"u\t{a}\t{b}\t{phone}" for a, b, phone in shuffled)]
    alignments = read(tmp_path_factory.mktemp("table"), "\r\n".join(lines))
    # Middles of frames, and their edges as a user divides.
    for times, shift in (([(f + 0.5) / 100 for f in frames], 0.5), ([f / 100 for f in frames], 0.0)):
        expected = [next((p for a, b, p in rows if a <= f + shift < b), None) for f in frames]
        assert alignments.labels_at("u", times) == expected


def test_blank_lines_and_a_byte_order_mark_do_not_matter(tmp_path):
    text = "\ufeff" + FRAMES.replace("\n", "\n\n")
    assert read(tmp_path, text).segments("a1") == read(tmp_path, FRAMES).segments("a1")


HEADER = "utt\tstart\tend\tphone\tspeaker\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "found no segment"),
        (HEADER, "found no segment"),
        ("name\tstart\tend\tphone\n", "line 1: expected a column utt or utterance or file, received name"),
        ("utt\tstart\tend\n", "line 1: expected a column phone"),
        ("utt\tstart\tphone\n", "line 1: expected either the columns"),
        ("utt\tphone\n", "line 1: expected either the columns"),
        ("utt\tstart\tend\tstart_frame\tend_frame\tphone\n", "line 1: expected either the columns"),
        ("utt\tstart\tend\tphone\tphone\n", "line 1: expected each column once"),
        (f"{HEADER}a\t0\t1\n", "line 2: expected 5 tab-separated values, received 3"),
        (f"{HEADER}a\t0\t1\tAA\ts\na\t1\tsoon\tT\ts\n", "line 3: expected a number of seconds.* 'soon'"),
        (f"{HEADER}a\t0\tnan\tAA\ts\n", "line 2: expected a number of seconds.* column end"),
        (f"{HEADER}a\t-1\t2\tAA\ts\n", "line 2: expected a number of seconds.* column start"),
        (
            "utt\tstart_frame\tend_frame\tphone\na\t0\t2.5\tT\n",
            "line 2: expected a whole number of 10 ms frames",
        ),
        (f"{HEADER}a\t2\t1\tAA\ts\n", "line 2: expected an end .* 2 s, received 1 s"),
        (f"{HEADER}a\t2\t2\tAA\ts\n", "line 2: expected an end "),
        (
            f"{HEADER}a\t0\t2\tAA\ts\nb\t0\t9\tT\ts\na\t1\t3\tT\ts\n",
            "line 4: .* of a to start at 2 s, the end .* on line 2.* received 1 s",
        ),
        (f"{HEADER}a\t1\t3\tT\ts\na\t0\t2\tAA\ts\n", "line 2: .* the end of the segment on line 3"),
        (f"{HEADER}a\t0\t1\t\ts\n", "line 2: expected a phone"),
        (f"{HEADER}\t0\t1\tAA\ts\n", "line 2: expected a name in the column utt"),
        (f"{HEADER}a\t0\t1\tT\ts\na\t1\t2\tT\tz\n", "line 3: expected one speaker for a, s as on line 2"),
        (
            "file\tstart\tend\tphone\nx/a.wav\t0\t1\tT\ny/a.wav\t1\t2\tT\n",
            "line 3: expected one file for a, x/a.wav as on line 2, received y/a.wav",
        ),
    ],
)
def test_mistakes_are_reported_in_a_sentence_with_the_line(tmp_path, text, words):
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path, text)
    assert "phones.tsv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_table(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Alignments.read(tmp_path / "absent.tsv")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8 text"):
        Alignments.read(tmp_path / "binary")
