"""`smalti compare` at a tiny budget, through the real entry point."""

import json
import math
import os
import shutil
import signal

import pytest

from smalti.app.letters import write_folder
from smalti.core.errors import Diverged, InputError, UnknownKind
from smalti.studies.quantizers import tasks
from smalti.studies.quantizers.compare import split_words
from smalti.studies.quantizers.tasks import Task, perform
from smalti.studies.records import read_records, write_records
from tests import forked
from tests.runs import WIDTHS, command, digests

SETTINGS = [
    "size=8",
    *WIDTHS,
    "code_dim=4",
    "model.likelihood.kind=logistic_mixture",
    "components=2",
    "training.log_every=2",
    "training.checkpoint_every=2",
    "training.batch_size=4",
    "prior.training.batch_size=4",
    "prior.network.channels=8",
    "prior.network.layers=2",
    "prior.network.head_channels=8",
    "prior.network.first_kernel_size=3",
]
BUDGET = ("--bits", "24", "--steps", "4", "--prior-steps", "2", "--seeds", "1", "--quiet")
VOLATILE = ("seconds", "commit", "stages", "metrics", "threads")
TIMES = ("encode_ms", "step_ms")


@pytest.fixture(scope="module", autouse=True)
def drawn():
    """Figures of single runs, which take most of the time of a tiny one, are files without content."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smalti.evaluation.figures.save_figure", lambda figure, path: _touch(path))
        yield


def _touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """Letters of 8x8 pixels, with a test split."""
    folder = tmp_path_factory.mktemp("letters")
    for split, num in (("train", 24), ("test", 10)):
        write_folder(folder / split, num, split=split, characters="ab", image_size=8)
    return folder


@pytest.fixture(scope="module")
def words(letters):
    return ("compare", "vq,fsq", "--data", letters, *BUDGET, *SETTINGS)


@pytest.fixture(scope="module")
def compared(words, tmp_path_factory):
    """A finished comparison."""
    out = tmp_path_factory.mktemp("compared") / "out"
    result = command(*words, "--out", out)
    assert result.status == 0, result.err
    return out


def steady(records):
    """What equal seeds must give again: all but times and provenance."""
    return [
        {key: value for key, value in record.items() if key not in VOLATILE}
        | {name: value for name, value in record["metrics"].items() if name not in TIMES}
        for record in records
    ]


def test_records(compared, letters):
    records = read_records(compared / "records.jsonl")
    assert [(r["entry"], r["quantizer"], r["seed"]) for r in records] == [
        ("vq, 24 bits", "vq", 0),
        ("fsq, 24 bits", "fsq", 0),
    ]
    vq, fsq = records
    # 2x2 positions of 6 bits.
    assert vq["config"]["model"]["quantizer"]["num_codes"] == 64
    assert fsq["config"]["model"]["quantizer"]["levels"] == [8, 8]
    networks = [{**r["config"], "model": {**r["config"]["model"], "quantizer": None}} for r in records]
    assert networks[0] == networks[1]
    for record in records:
        metrics = record["metrics"]
        assert record["bits"] == metrics["bits"] == pytest.approx(24)
        assert (record["dataset"], record["split"]) == (letters.name, "test")
        assert record["steps"] == 4 + 2
        assert str(letters.parent) not in json.dumps(record)
        dims = 3 * 8 * 8
        assert metrics["bits_learned"] == pytest.approx(metrics["rate"] * dims)
        assert metrics["rate"] + metrics["distortion"] == pytest.approx(metrics["bits_per_dim"])
        assert metrics["num"] == 10
        assert 0 < metrics["encode_ms"] < 10_000
        assert 0 < metrics["step_ms"] < 10_000
    # Codes, sums of tokens: 64 x 4; counts, expected choices: 64; steps: one int64.
    assert vq["metrics"]["mib"] == pytest.approx((2 * 64 * 4 + 2 * 64 + 2) * 4 / 2**20)
    assert fsq["metrics"]["mib"] == 0


def test_figures_are_those_of_the_evaluation(compared):
    record = read_records(compared / "records.jsonl")[0]
    report = json.loads((compared / "runs" / "vq-24bits" / "seed0" / "evaluation.json").read_text())
    metrics = record["metrics"]
    assert metrics["bits_per_dim"] == report["bits_per_dim"]["learned"]["bits_per_dim"]
    assert metrics["bits_unigram"] == report["bits_per_dim"]["unigram"]["rate"] * 192
    assert metrics["psnr"] == report["reconstruction"]["psnr"]
    assert metrics["perplexity"] == report["codebook"]["perplexity"]
    assert pytest.approx(report["bits_per_dim"]["uniform"]["rate"] * 192) == 24


def test_loss_weights_are_chosen_on_validation_data(compared):
    vq, fsq = read_records(compared / "records.jsonl")
    weights = [trial["weights"]["commitment_weight"] for trial in vq["search"]]
    assert weights == [0.0625, 0.25, 1.0]
    scores = [trial["score"] for trial in vq["search"]]
    chosen = weights.index(vq["weights"]["commitment_weight"])
    assert scores[chosen] == min(scores)
    assert vq["config"]["model"]["quantizer"]["commitment_weight"] == vq["weights"]["commitment_weight"]
    for number, score in enumerate(scores):
        run = compared / "runs" / "vq-24bits" / f"search{number}"
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert min(line["bits_per_dim"] for line in lines if line["split"] == "validation") == score
        assert not (run / "evaluation.json").exists()
    assert (fsq["search"], fsq["weights"]) == ([], {})


def test_tables_plot_and_page(compared):
    table = (compared / "table.md").read_text()
    assert table.count("| vq, 24 bits |") == table.count("| fsq, 24 bits |") == 2
    page = (compared / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 3  # the plot, and reconstructions of both
    assert (compared / "rate_distortion.png").read_bytes().startswith(b"\x89PNG")


def test_all_runs_read_the_same_items(compared):
    stores = {path.resolve() for path in compared.glob("runs/*/*/data")}
    assert stores == {(compared / "data").resolve()}


def test_again_it_changes_nothing_and_more_can_be_added(compared, words, tmp_path):
    out = shutil.copytree(compared, tmp_path / "out", symlinks=True)
    before = {file: file.stat().st_mtime_ns for file in (out / "runs").rglob("*") if file.is_file()}
    result = command(*words, "--out", out, "kind=fsq levels=5,5")
    assert result.status == 0, result.err
    assert {file: file.stat().st_mtime_ns for file in before} == before
    records = read_records(out / "records.jsonl")
    assert records[:2] == read_records(compared / "records.jsonl")
    assert records[2]["entry"] == "fsq-levels=5,5"
    assert records[2]["bits"] == pytest.approx(4 * math.log2(25))
    assert records[2]["asked_bits"] is None


def test_a_kill_is_made_good_and_equal_seeds_give_equal_records(compared, words, tmp_path, monkeypatch):
    from smalti.studies import stages

    calls = []

    def killed(*arguments, **named):
        calls.append(arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages, "train_prior_recipe", killed)
        assert command(*words, "--out", tmp_path / "out").status != 0
    assert len(calls) == 1
    assert not (tmp_path / "out" / "records.jsonl").exists()
    finished = digests(tmp_path / "out" / "runs")
    result = command(*words, "--out", tmp_path / "out")
    assert result.status == 0, result.err
    records, expected = (read_records(folder / "records.jsonl") for folder in (tmp_path / "out", compared))
    assert steady(records) == steady(expected)
    now = digests(tmp_path / "out" / "runs")
    assert {name: now[name] for name in finished} == finished


def test_known_records_are_not_trained_again(compared, words, tmp_path):
    out, records = tmp_path / "out", compared / "records.jsonl"
    elsewhere = tmp_path / "elsewhere.jsonl"
    renamed = [{**record, "dataset": "mine"} for record in read_records(records)]
    incomplete = [{name: record[name] for name in ("experiment", "entry", "seed")} for record in renamed]
    write_records(elsewhere, [{"experiment": "table"}, *incomplete, *renamed])
    result = command(*words, "--out", out, "--known", elsewhere)
    assert result.status == 0, result.err
    assert read_records(out / "records.jsonl") == renamed
    assert not (out / "runs").exists()
    assert (out / "table.md").read_text() == (compared / "table.md").read_text()


def test_a_search_is_known_to_other_seeds(compared, words, tmp_path):
    """A deleted run is not missed once its record is written."""
    out = shutil.copytree(compared, tmp_path / "out", symlinks=True)
    shutil.rmtree(out / "runs")
    words = ["vq" if word == "vq,fsq" else word for word in words]
    result = command(*words, "--out", out, "--seeds", "2")
    assert result.status == 0, result.err
    assert [path.name for path in (out / "runs" / "vq-24bits").iterdir()] == ["seed1"]
    first, second = read_records(out / "records.jsonl")
    assert first == read_records(compared / "records.jsonl")[0]
    assert (second["seed"], second["weights"], second["search"]) == (1, first["weights"], first["search"])


@pytest.mark.parametrize(
    ("changes", "record"),
    [
        (("training.learning_rate=0.1",), {}),
        (("--prior-steps", "3"), {}),
        ((), {"measured_on": "other pictures"}),
        ((), {"config": {"model": 3}}),
    ],
)
def test_records_of_other_settings_are_not_taken(changes, record, compared, words, tmp_path):
    elsewhere = tmp_path / "elsewhere.jsonl"
    write_records(elsewhere, [{**each, **record} for each in read_records(compared / "records.jsonl")])
    words = ["fsq" if word == "vq,fsq" else word for word in words]
    result = command(*words, "--out", tmp_path / "out", "--known", elsewhere, *changes)
    assert result.status == 0, result.err
    assert (tmp_path / "out" / "runs" / "fsq-24bits" / "seed0" / "evaluation.json").is_file()


def test_files_that_are_no_records_get_a_sentence(words, mistake, tmp_path):
    def message(file):
        return mistake(*words, "--out", tmp_path / "out", "--known", file)

    assert "found none" in message(tmp_path / "missing.jsonl")
    for content in (b"\xff\xfe", b"{", b"[1]\n{"):
        (tmp_path / "bad").write_bytes(content)
        assert "one JSON record a line" in message(tmp_path / "bad")


@pytest.mark.parametrize(
    "changes",
    [("--steps", "5"), ("--search", "5"), ("--prior-steps", "3"), ("training.learning_rate=0.1",)],
)
def test_other_settings_are_refused(changes, compared, words, mistake):
    assert "choose another --out" in mistake(*words, "--out", compared, *changes)


def test_changed_data_is_refused(compared, letters, words, mistake, tmp_path):
    out = shutil.copytree(compared, tmp_path / "out", symlinks=True)
    extra = letters / "train" / "a" / "extra.png"
    shutil.copy(next((letters / "train" / "a").iterdir()), extra)
    try:
        assert "restore the data" in mistake(*words, "--out", out, "--seeds", "2")
    finally:
        extra.unlink()


def test_mistakes_get_a_sentence(mistake, letters, pictures, tmp_path):
    def message(*words):
        return mistake("compare", *words, "--out", tmp_path / "out")

    given = ("--data", letters, *SETTINGS)
    assert "add for example --bits 441" in message("vq", *given)
    for bits in ("-4", "nan", "inf", "24,0"):
        assert "above 0" in message("vq", *given, "--bits", bits)
    assert "1,024 bits at each position" in message("vq", *given, "--bits", "1e9")
    assert "leave product out" in message("vq,product", *given, "--bits", "3")
    assert "share vq-24bits" in message("vq", *given, "--bits", "24,24.0000001")
    assert "expected numbers for --bits" in message("vq", *given, "--bits", "many")
    assert "did you mean fsq?" in message("fsqq", *given, "--bits", "24")
    assert "odd" in message("vq", *given, "--bits", "24", "--search", "2")
    assert "expected a recipe whose model has a quantizer" in message(
        "vq", "--data", letters, "--bits", "24", "size=8", "model.kind=vae"
    )
    assert "WaveNet" in message(
        "product", "--data", letters, "--bits", "24", "size=8", "prior.network.kind=wavenet"
    )
    assert not (tmp_path / "out").exists()  # refused before anything is trained
    assert "test split" in message("vq", "--data", pictures, "--bits", "24", "size=8")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("unique")
    assert "thesis.txt" in message("vq", *given, "--bits", "24")


def test_settings_of_quantizers_and_of_the_recipe():
    words = ["vq,fsq", "size=8", "kind=fsq levels=8,8", "model.likelihood.kind=gaussian", "mine.json"]
    assert split_words(words) == (
        ["vq,fsq", "kind=fsq levels=8,8", "mine.json"],
        ["size=8", "model.likelihood.kind=gaussian"],
    )


class Note(Task):
    """Writes a file, or fails."""

    def __init__(self, path):
        self.path, self.title = path, path.name

    def is_done(self):
        return self.path.exists()

    def run(self, quiet):
        if self.title == "broken":
            raise UnknownKind("expected a kind", "quantizer", "vqq")
        if self.title == "bug":
            raise RuntimeError("of a plugin")
        if self.title == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        self.path.write_text(self.title)


class Diverging(Task):
    """Counts its trainings, all of which diverge."""

    def __init__(self, path):
        self.path, self.title = path, path.name

    def is_done(self):
        return False

    def run(self, quiet):
        with (self.path / "runs").open("a") as file:
            file.write("x")
        raise Diverged("the loss stopped being finite")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failed_task_does_not_stop_the_others(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "CONTEXT", forked.CONTEXT)
    notes = [Note(tmp_path / name) for name in ("broken", "bug", "a", "b", "done")]
    notes[-1].path.write_text("before")
    failed = {"broken": "expected a kind", "bug": "RuntimeError: of a plugin"}
    assert perform(notes, jobs, quiet=True) == failed
    assert {note.title: note.path.read_text() for note in notes[2:]} == {"a": "a", "b": "b", "done": "before"}


def test_a_training_that_diverged_is_not_repeated(tmp_path):
    task = Diverging(tmp_path)
    for _ in range(2):
        assert perform([task], 1, quiet=True) == {task.title: "the loss stopped being finite"}
    assert (tmp_path / "runs").read_text() == "x"


def test_a_process_that_is_killed_gets_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "CONTEXT", forked.CONTEXT)
    with pytest.raises(InputError, match="killed"):
        perform([Note(tmp_path / name) for name in ("killed", "a")], 2, quiet=True)


def test_a_search_that_fails_is_left_out_if_it_diverged_and_repeated_otherwise(words, tmp_path, monkeypatch):
    """A trial that fails late has validation scores, which must not be chosen."""
    from smalti.studies import stages

    train, trials = stages.train_recipe, []

    def failing(error):
        def with_small_weight(recipe, *arguments):
            weight = getattr(recipe.model.quantizer, "commitment_weight", None)
            trials.append(weight)
            train(recipe, *arguments)
            if weight == 0.0625:
                raise error

        return with_small_weight

    words = ["vq" if word == "vq,fsq" else word for word in words]
    with monkeypatch.context() as patch:
        patch.setattr(stages, "train_recipe", failing(InputError("no memory")))
        result = command(*words, "--out", tmp_path / "out")
    assert (result.status, "no memory" in result.err) == (2, True)
    assert trials == [0.0625, 0.25, 1.0]  # no seed
    shutil.rmtree(tmp_path / "out")
    trials.clear()
    with monkeypatch.context() as patch:
        patch.setattr(stages, "train_recipe", failing(Diverged("not finite")))
        result = command(*words, "--out", tmp_path / "out")
    assert result.status == 0, result.err
    (record,) = read_records(tmp_path / "out" / "records.jsonl")
    assert [trial["score"] is None for trial in record["search"]] == [True, False, False]
    assert trials[:3] == [0.0625, 0.25, 1.0]
    assert trials[3] == record["weights"]["commitment_weight"] != 0.0625


def test_the_others_are_reported_when_a_training_fails(compared, words, tmp_path, monkeypatch):
    from smalti.studies import stages

    out = shutil.copytree(compared, tmp_path / "out", symlinks=True)
    train = stages.train_recipe

    def diverging(recipe, *arguments):
        if recipe.training.seed == 1 and recipe.model.quantizer.kind == "fsq":
            raise InputError("the loss is not finite")
        return train(recipe, *arguments)

    monkeypatch.setattr(stages, "train_recipe", diverging)
    result = command(*words, "--out", out, "--seeds", "2")
    assert result.status == 2
    assert "fsq, 24 bits, seed 1 failed" in result.err
    records = read_records(out / "records.jsonl")
    assert [(r["quantizer"], r["seed"]) for r in records] == [("vq", 0), ("vq", 1), ("fsq", 0)]
    assert "not finite" in (out / "table.md").read_text()
