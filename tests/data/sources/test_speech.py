"""Corpora of speech: known layouts, patterns, tables, and what is said of files that fit none."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.core.errors import InputError
from smalti.data.sources.base import Source
from smalti.data.sources.speech import LAYOUTS, SpeechSource
from smalti.data.sources.table import TableSource

EXTENSIONS = (".wav", ".flac")

LIBRISPEECH = (
    "train-clean-100/84/121123/84-121123-0000.flac",
    "train-other-500/85/1/85-1-0001.flac",
    "dev-clean/86/2/86-2-0000.flac",
    "test-other/84/3/84-3-0000.flac",
)
DIGITS = tuple(
    f"{digit}_{who}_{take}.flac" for digit in (0, 7) for who in ("jackson", "theo") for take in (4, 5)
)


def fill(root: Path, *files: str) -> Path:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.encode())
    return root


def table(path: Path, *lines: str, encoding="utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def listed(source: Source) -> dict[str, list[tuple[str, str | None]]]:
    """(name, label) of every item, by split, as many as are counted."""
    items = {split: list(source.items(split)) for split in source.splits}
    assert {split: source.count(split) for split in items} == {
        split: len(group) for split, group in items.items()
    }
    return {split: [(item.name, item.label) for item in group] for split, group in items.items()}


class TestLayouts:
    def test_librispeech(self, tmp_path):
        fill(tmp_path, *(f"LibriSpeech/{file}" for file in LIBRISPEECH), "LibriSpeech/SPEAKERS.TXT")
        assert SpeechSource.accepts(tmp_path, EXTENSIONS)
        source = SpeechSource(tmp_path, EXTENSIONS)
        assert source.splits == ("train", "validation", "test")
        assert listed(source) == {
            "train": [(f"LibriSpeech/{LIBRISPEECH[0]}", "84"), (f"LibriSpeech/{LIBRISPEECH[1]}", "85")],
            "validation": [(f"LibriSpeech/{LIBRISPEECH[2]}", "86")],
            "test": [(f"LibriSpeech/{LIBRISPEECH[3]}", "84")],
        }
        assert source.description == f"LibriSpeech {tmp_path} (train 2, validation 1, test 1)"
        assert "SPEAKERS.TXT" in source.notes("train")[0]
        assert source.notes("test") == []
        item = next(source.items("test"))
        assert item.content == tmp_path / "LibriSpeech" / LIBRISPEECH[3]

    def test_one_part_of_librispeech_has_no_splits(self, tmp_path):
        fill(tmp_path, *(file.split("/", 1)[1] for file in LIBRISPEECH))
        source = SpeechSource(tmp_path, EXTENSIONS)
        assert source.splits == ("all",)
        assert {label for _, label in listed(source)["all"]} == {"84", "85", "86"}

    def test_libritts(self, tmp_path):
        source = SpeechSource(fill(tmp_path, "dev-clean/84/121123/84_121123_000007_000001.wav"), EXTENSIONS)
        assert listed(source) == {"validation": [("dev-clean/84/121123/84_121123_000007_000001.wav", "84")]}

    def test_vctk(self, tmp_path):
        fill(tmp_path, "wav48/p225/p225_001.wav", "wav48/p226/p226_001.wav", "txt/p225/p225_001.txt")
        source = SpeechSource(tmp_path, EXTENSIONS)
        assert listed(source) == {
            "all": [("wav48/p225/p225_001.wav", "p225"), ("wav48/p226/p226_001.wav", "p226")]
        }

    def test_of_two_microphones_the_first(self, tmp_path):
        files = [
            f"wav48_silence_trimmed/{who}/{who}_001_mic{mic}.flac" for who in ("p225", "s5") for mic in (1, 2)
        ]
        fill(tmp_path, *files)
        assert SpeechSource.accepts(tmp_path, EXTENSIONS)
        source = SpeechSource(tmp_path, EXTENSIONS)
        assert listed(source) == {"all": [(files[0], "p225"), (files[2], "s5")]}
        assert source.notes("all") == [
            f"2 files of a second microphone were ignored, the first of them {files[1]}"
        ]

    def test_free_spoken_digits(self, tmp_path):
        source = SpeechSource(fill(tmp_path, *DIGITS), EXTENSIONS)
        expected = {"train": [], "test": []}
        for file in sorted(DIGITS):
            _, who, take = file.removesuffix(".flac").split("_")
            expected["test" if int(take) < 5 else "train"].append((file, who))
        assert listed(source) == expected

    def test_nine_in_ten_files_must_fit(self, tmp_path):
        fill(tmp_path, *(f"0_theo_{take}.wav" for take in range(9)), "other.wav")
        assert SpeechSource.accepts(tmp_path, EXTENSIONS)
        source = SpeechSource(tmp_path, EXTENSIONS)
        assert sum(map(source.count, source.splits)) == 9
        assert source.notes("train") == ["1 file whose path does not match was ignored: other.wav"]
        fill(tmp_path, "another.wav")
        assert not SpeechSource.accepts(tmp_path, EXTENSIONS)
        with pytest.raises(InputError, match=r"LibriSpeech, VCTK, Free Spoken Digit Dataset below "):
            SpeechSource(tmp_path, EXTENSIONS)

    @pytest.mark.parametrize(
        "file",
        ["84/121123/85-121123-0000.flac", "p225/p226_001.wav", "7_theo_1.png", "cat/1.wav", "7_theo_x.wav"],
    )
    def test_what_only_looks_similar(self, tmp_path, file):
        assert not SpeechSource.accepts(fill(tmp_path, file), (*EXTENSIONS, ".png"))

    def test_accepts_neither_files_nor_empty_folders(self, tmp_path):
        assert not SpeechSource.accepts(tmp_path, EXTENSIONS)
        assert not SpeechSource.accepts(tmp_path / "none", EXTENSIONS)
        assert not SpeechSource.accepts(fill(tmp_path, "0_theo_1.wav") / "0_theo_1.wav", EXTENSIONS)

    @settings(max_examples=50, deadline=None)
    @given(st.data())
    def test_no_path_is_of_two_corpora(self, data):
        layout = data.draw(st.sampled_from(LAYOUTS))
        path = data.draw(st.from_regex(layout.pattern, fullmatch=True, alphabet=st.characters(codec="ascii")))
        assert [other for other in LAYOUTS if other.pattern.search(path)] == [layout]


class TestPattern:
    FILES = ("a/anna_1.wav", "b/ben_1.wav", "b/ben_2.wav")

    def test_speaker_and_split(self, tmp_path):
        fill(tmp_path, *self.FILES)
        source = SpeechSource(tmp_path, EXTENSIONS, r"^(?P<split>\w)/(?P<speaker>[a-z]+)_")
        assert listed(source) == {
            "a": [("a/anna_1.wav", "anna")],
            "b": [("b/ben_1.wav", "ben"), ("b/ben_2.wav", "ben")],
        }
        assert r"by the pattern ^(?P<split>\w)/" in source.description

    @pytest.mark.parametrize(
        ("stated", "split"), [("Valid", "validation"), ("DEV", "validation"), ("eval", "test")]
    )
    def test_names_of_splits_are_normalised(self, tmp_path, stated, split):
        source = SpeechSource(
            fill(tmp_path, f"{stated}_x.wav"), EXTENSIONS, "(?P<split>[A-Za-z]+)_(?P<label>x)"
        )
        assert listed(source) == {split: [(f"{stated}_x.wav", "x")]}

    def test_folders_are_splits_where_the_pattern_states_none(self, tmp_path):
        fill(tmp_path, "train/anna_1.wav", "test/ben_1.wav")
        source = SpeechSource(tmp_path, EXTENSIONS, "(?P<speaker>[a-z]+)_")
        assert listed(source) == {
            "train": [("train/anna_1.wav", "anna")],
            "test": [("test/ben_1.wav", "ben")],
        }

    def test_files_that_do_not_match_are_reported(self, tmp_path):
        source = SpeechSource(fill(tmp_path, *self.FILES), EXTENSIONS, "(?P<speaker>ben)_")
        assert source.count("all") == 2
        assert source.notes("all") == ["1 file whose path does not match was ignored: a/anna_1.wav"]

    def test_files_without_a_split_among_others_are_reported(self, tmp_path):
        source = SpeechSource(fill(tmp_path, *self.FILES), EXTENSIONS, "(?P<split>b)?/(?P<speaker>[a-z]+)_")
        assert listed(source) == {"b": [("b/ben_1.wav", "ben"), ("b/ben_2.wav", "ben")]}
        assert source.notes("b") == ["1 file whose path states no split was ignored: a/anna_1.wav"]

    def test_one_file(self, tmp_path):
        source = SpeechSource(fill(tmp_path, "anna_1.wav") / "anna_1.wav", EXTENSIONS, "(?P<speaker>[a-z]+)_")
        assert listed(source) == {"all": [("anna_1.wav", "anna")]}

    @pytest.mark.parametrize(
        ("pattern", "words"),
        [
            ("(?P<speaker>", r"expected a regular expression, got \(\?P<speaker>: missing"),
            ("[a-z]+", r"a group \(\?P<speaker>\.\.\.\) or \(\?P<label>"),
            ("(?P<split>a)", r"\(\?P<label>"),
            ("(?P<speaker>zoe)", "found only others, such as a/anna_1.wav: correct the pattern"),
        ],
    )
    def test_refused(self, tmp_path, pattern, words):
        with pytest.raises(InputError, match=words):
            SpeechSource(fill(tmp_path, *self.FILES), EXTENSIONS, pattern)

    def test_no_sounds_and_no_such_split(self, tmp_path):
        with pytest.raises(InputError, match="found no files"):
            SpeechSource(tmp_path, EXTENSIONS, "(?P<speaker>.)")
        source = SpeechSource(fill(tmp_path, *self.FILES), EXTENSIONS, "(?P<speaker>[a-z]+)_")
        for question in (source.count, source.notes, lambda split: list(source.items(split))):
            with pytest.raises(InputError, match="expected one of the splits all"):
                question("train")


class TestTable:
    def test_utterances_found_by_their_stems(self, tmp_path):
        fill(tmp_path, "deep/er/u1.flac", "u2.flac", "deep/u3.wav")
        table(
            tmp_path / "utts.tsv",
            "utt\tspeaker\tsplit\ttext",
            'u3\tben\ttest\tSHE SAID "NO',
            "u1\tanna\ttrain\t",
            "u2\tanna\tdev\tYES",
        )
        assert TableSource.accepts(tmp_path, [".wav"])
        source = TableSource(tmp_path, EXTENSIONS)
        assert listed(source) == {
            "train": [("u1", "anna")], "validation": [("u2", "anna")], "test": [("u3", "ben")],
        }  # fmt: skip
        assert next(source.items("test")).content == tmp_path / "deep" / "u3.wav"
        assert source.description == f"table {tmp_path / 'utts.tsv'} (train 1, validation 1, test 1)"
        assert [source.notes(split) for split in source.splits] == [[], [], []]

    def test_paths_relative_to_the_table_in_its_order(self, tmp_path):
        fill(tmp_path, "clips/b.wav", "clips/a.wav", "clips/c, d.wav")
        path = table(
            tmp_path / "list.CSV",
            "\ufeffFile_Name , CLASS",
            "clips/b.wav,2",
            "",
            "clips/a.wav,",
            '"clips/c, d.wav",1',
        )
        assert TableSource.accepts(path, [".wav"])
        source = TableSource(path, EXTENSIONS)
        assert listed(source) == {
            "all": [("clips/b.wav", "2"), ("clips/a.wav", None), ("clips/c, d.wav", "1")]
        }
        assert [item.content for item in source.items("all")] == [
            tmp_path / "clips" / name for name in ("b.wav", "a.wav", "c, d.wav")
        ]

    @pytest.mark.parametrize("column", ["file_name", "file", "path", "utt", "utterance", "id"])
    @pytest.mark.parametrize("named", ["x.wav", "x", "sub/x.wav", "sub/x"])
    def test_every_way_to_name_a_file(self, tmp_path, column, named):
        fill(tmp_path, "sub/x.wav")
        source = TableSource(table(tmp_path / "t.csv", f"text,{column}", f"hello,{named}"), EXTENSIONS)
        (item,) = source.items("all")
        assert (item.name, item.content, item.label) == (named, tmp_path / "sub" / "x.wav", None)

    def test_files_beside_a_table_of_folders_called_as_splits_are(self, tmp_path):
        fill(tmp_path, "train/a.wav", "test/b.wav", "c.wav")
        source = TableSource(table(tmp_path / "t.csv", "id", "a", "b", "c"), EXTENSIONS)
        assert [item.content.name for item in source.items("all")] == ["a.wav", "b.wav", "c.wav"]

    def test_missing_files_stay_as_unreadable_items(self, tmp_path):
        fill(tmp_path, "a.wav")
        source = TableSource(table(tmp_path / "t.csv", "id,label", "a,x", "gone,y", "gone.wav,y"), EXTENSIONS)
        assert listed(source) == {"all": [("a", "x"), ("gone", "y"), ("gone.wav", "y")]}
        assert [item.content for item in source.items("all")][1:] == [
            tmp_path / "gone",
            tmp_path / "gone.wav",
        ]

    def test_ambiguous_names_and_paths_that_lead_out_are_reported(self, tmp_path):
        fill(
            tmp_path, "secret.wav", "data/a/x.wav", "data/b/x.wav", "data/y.wav", "data/z.wav", "data/z.flac"
        )
        path = table(
            tmp_path / "data" / "t.csv", "id", "x", "y", "z", "../secret.wav", str(tmp_path / "secret.wav")
        )
        source = TableSource(path, EXTENSIONS)
        assert listed(source) == {"all": [("y", None)]}
        assert source.notes("all") == [
            "2 rows whose file lies outside the table's folder were ignored, the first of them ../secret.wav",
            "2 rows whose name several files have were ignored, the first of them x",
        ]

    def test_rows_without_a_split_among_others_are_reported(self, tmp_path):
        fill(tmp_path, "a.wav", "b.wav")
        source = TableSource(table(tmp_path / "t.csv", "id,split", "a,train", "b,"), EXTENSIONS)
        assert listed(source) == {"train": [("a", None)]}
        assert source.notes("train") == ["1 row without a split was ignored: b"]

    @pytest.mark.parametrize(
        ("lines", "words"),
        [
            (["name,speaker", "q,b"], "a column file_name, .*got name, speaker in line 1"),
            (["id"], "column names and rows in .*, got only the names"),
            ([], "which is empty"),
            (["id,label", "a,b", "c"], "in each line .* got 1 in line 3"),
            (["id,label", "a,b,c"], "got 3 in line 2"),
            (["id,label", "a,1", "a,2"], "lines 2 and 3"),
            (["id,label", ",1"], "line 2 has none in the column id: complete"),
            (["id,label", '"a,1'], "cannot be read after line 1"),
            (["id", "gone"], "that t.csv names, found none of 1, such as gone"),
        ],
    )
    def test_malformed(self, tmp_path, lines, words):
        fill(tmp_path, "a.wav", "c.wav")
        with pytest.raises(InputError, match=words) as caught:
            TableSource(table(tmp_path / "t.csv", *lines), EXTENSIONS)
        assert "\n" not in str(caught.value)

    def test_another_encoding(self, tmp_path):
        fill(tmp_path, "a.wav")
        with pytest.raises(InputError, match=r"expected a table in UTF-8, but line 2"):
            TableSource(table(tmp_path / "t.tsv", "id\ttext", "a\tMäuse", encoding="latin-1"), EXTENSIONS)

    def test_which_paths_are_tables(self, tmp_path):
        assert not TableSource.accepts(tmp_path, [".wav"])
        assert not TableSource.accepts(tmp_path / "none.csv", [".wav"])
        table(tmp_path / "phones.tsv", "id")
        assert not TableSource.accepts(tmp_path, [".wav"])
        table(tmp_path / "metadata.csv", "id,caption", "a,a cat")
        assert not TableSource.accepts(tmp_path, [".wav"])  # folders may tell more
        for column in ("speaker", "label", "split"):
            table(tmp_path / "metadata.csv", f"id,{column}", "a,test")
            assert TableSource.accepts(tmp_path, [".wav"])
        table(tmp_path / "utts.tsv", "id")
        assert not TableSource.accepts(tmp_path, [".wav"])
        for path in (tmp_path, table(tmp_path / "t.txt", "id")):
            with pytest.raises(InputError, match=r"\.csv or \.tsv"):
                TableSource(path, EXTENSIONS)
