"""Every command and code block of the README and the docs is run, in order, in one scratch directory."""

from __future__ import annotations

import ast
import io
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

import smalti
from smalti.app.cli import main
from smalti.core import plugins
from smalti.core.registry import Registry
from tests import forked

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "docs/index.md",
    "docs/tutorials/pictures.md",
    "docs/tutorials/speech.md",
    "docs/tutorials/video.md",
    "docs/guide.md",
    "docs/howto.md",
    "docs/paper.md",
    "docs/exports.md",
    "docs/page.md",
    "docs/results.md",
    "docs/models.md",
    "docs/scale.md",
    "docs/compression.md",
    "docs/speed.md",
    "docs/figures.md",
    "docs/likelihood.md",
    "docs/objectives.md",
    "docs/quantizers.md",
    "docs/speech.md",
    "docs/video.md",
    "docs/architecture.md",
    "docs/experiments.md",
    "CONTRIBUTING.md",
    "docs/parts.md",  # last: it installs a package with parts and commands
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (\w+\.py)\n")
"""A block of Python that begins with the name of a file is that file; other blocks and commands import it."""
# A command is run as it is written, with these settings after it: the same path, in seconds.
SMALL = (
    "model.encoder.channels=8 model.decoder.channels=8 model.encoder.residual_channels=4 "
    "training.batch_size=8 training.validate_every=0"
)
SMALL_SOUNDS = "training.batch_size=2 training.validate_every=0 training.steps=3"
SHRINK = {
    (
        "smalti",
        "train",
        "image",
        "--plugin",
    ): "model.decoder.channels=8 training.batch_size=8 training.validate_every=0 training.steps=3",
    ("smalti", "train", "tiles"): "training.steps=3",
    (
        "smalti",
        "train",
        "digits",
    ): f"{SMALL_SOUNDS} model.encoder.network.channels=8 model.decoder.network.channels=8 "
    "model.decoder.network.gate_channels=8 model.decoder.network.layers=3 data.length=1600 num_codes=16",
    ("smalti", "train", "speech-codec", "--data", "sentences"): SMALL_SOUNDS,  # from the one in the package
    (
        "smalti",
        "train",
        "speech-codec",
    ): f"{SMALL_SOUNDS} model.encoder.channels=8 model.encoder.layers=1 model.decoder.channels=8 "
    "model.decoder.layers=1 num_codes=16 data.length=3200",
    (
        "smalti",
        "train",
        "units",
    ): f"{SMALL_SOUNDS} model.encoder.channels=8 pretraining.training.batch_size=2 "
    "pretraining.task.num_clusters=8",
    (
        "smalti",
        "train",
        "digits-spectral",
    ): f"{SMALL_SOUNDS} model.encoder.channels=8 model.decoder.channels=8 num_codes=16",
    (
        "smalti",
        "train",
        "second-stage",
    ): f"{SMALL_SOUNDS} model.decoder.network.channels=8 model.decoder.network.layers=2",
    **{
        ("smalti", "train-prior", run): f"{SMALL_SOUNDS} network.channels=8 network.layers=2"
        for run in ("runs/spoken", "runs/voices", "runs/my_speech")
    },
    ("smalti", "train", "video"): f"{SMALL} training.steps=3 training.batch_size=2 size=16 num_codes=16",
    **{
        ("smalti", "train-prior", run): f"{SMALL_SOUNDS} network.channels=8 network.layers=2 network.heads=2"
        for run in ("runs/clips", "runs/my_clips")
    },
    ("smalti", "train", "walks"): f"{SMALL} training.steps=3 training.batch_size=2 size=16 num_codes=16",
    (
        "smalti",
        "train-prior",
        "runs/walks",
    ): f"{SMALL_SOUNDS} frame.channels=8 frame.layers=2 memory_channels=8 memory_layers=2",
    (
        "smalti",
        "train-prior",
        "runs/levels",
    ): f"{SMALL_SOUNDS} coarsest.channels=8 coarsest.layers=2 finer.channels=8 finer.layers=2",
    ("smalti", "train"): f"{SMALL} training.steps=3",
    (
        "smalti",
        "train-prior",
    ): "training.steps=3 training.batch_size=8 network.channels=8 network.layers=2 network.head_channels=8",
    ("torchrun", None, None, None, None, "train"): f"{SMALL} training.steps=3",
    (
        "smalti",
        "compare",
        "vq,fsq,residual",
    ): f"{SMALL} size=16 prior.training.batch_size=8 prior.network.channels=8 prior.network.layers=2 "
    "prior.network.head_channels=8 --bits 112 --steps 2 --prior-steps 2 --seeds 1 --search 1",
    ("smalti", "compare"): "training.batch_size=64 --steps 5 --seeds 1 --search 1",
}
MOST_ITEMS = {"smalti demo --write-images": 52, "smalti collect speech": 16}
"""Most items that commands make: two pictures of each letter, two recordings of each speaker."""
# What sets up the environment that the tests already run in is looked at, not run.
SET_UP = ("pip", "source")
NO_VARIABLES: Mapping[str, str] = {}


@dataclass(frozen=True)
class Block:
    document: str
    language: str
    text: str


def blocks() -> list[Block]:
    return [
        Block(document, language, text)
        for document in DOCUMENTS
        for language, text in BLOCK.findall((ROOT / document).read_text())
    ]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that looks like the project's to relative paths, and has no other file."""
    return tmp_path_factory.mktemp("newcomer")


def needs_vizdoom(words: list[str]) -> bool:
    """True if a command collects frames, or goes on from them."""
    return bool({"doom", "rooms", "runs/frames", "runs/second", "runs/walks"} & set(words))


def run_command(line: str, directory: Path) -> None:
    words = shlex.split(line, comments=True)
    variables = {}
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, variables[name] = words.pop(0).partition("=")
    if not words or words[0] in SET_UP or (needs_vizdoom(words) and find_spec("vizdoom") is None):
        return
    if words[0] == "make":
        subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        return
    if words[-2:] == ["--engine", "ray"]:
        return  # tests/app/test_ray_engine.py runs it with a cluster that its tests share
    if words[0].endswith(("python", "pre-commit")):
        assert "slow" in words or words[0].endswith("pre-commit"), f"how should a test run {line!r}?"
        return
    if words[:2] == ["smalti", "serve"]:
        served(words, directory)
        return
    if words == ["smalti", "docs"]:
        words.append("--no-open")
    if words[:3] == ["smalti", "demo", "--write-images"] and (directory / words[3]).exists():
        return  # a document may begin from nothing; the pictures are there already
    if (most := MOST_ITEMS.get(" ".join(words[:3]))) and "--num" in words:
        place = words.index("--num") + 1
        words[place] = str(min(int(words[place]), most))
    command = next((c for c in SHRINK if all(c[i] in (None, *words[i : i + 1]) for i in range(len(c)))), None)
    small = SHRINK[command].split() if command else []
    if "network.kind=transformer" in words:
        small.remove("network.head_channels=8")  # it has none
    words += small
    if words[0] == "torchrun":
        assert words[1:4] == ["--nproc_per_node", "2", "-m"], "how should a test run it?"
        forked.run(*words[3:], folder=directory, num_ranks=2)
        return
    if variables or {"--plugin", "runs/patches"} & set(words):
        # Parts and commands of the document must not stay in this process.
        forked.run("-m", *words, folder=directory, variables=variables)
        return
    status, printed = run_here(words[1:], directory)
    assert status == 0, f"{line}\n{printed}"


def served(words: list[str], directory: Path) -> None:
    """Run a command that serves a page until it does, and stop it."""
    command = [sys.executable, "-m", *words, *([] if "--port" in words else ["--port", "0"])]
    with subprocess.Popen(command, cwd=directory, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while "Ctrl-C" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        process.terminate()
    assert process.returncode == 0, said


def run_here(words: list[str], directory: Path) -> tuple[int, str]:
    """Run `smalti` through its entry point in this process, which has imported torch already."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
        patch.chdir(directory)
        patch.setattr(sys, "argv", ["smalti", *words])
        patch.setenv("HF_HUB_OFFLINE", "1")
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0), printed.getvalue()
    return 0, printed.getvalue()


def install(project: str, directory: Path) -> None:
    """Give a directory the entry points of a pyproject.toml, as `pip install` would."""
    described = tomllib.loads(project)["project"]
    installed = directory / f"{described['name']}-{described['version']}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Name: {described['name']}\nVersion: {described['version']}\n")
    lines: list[str] = []
    for group, points in described["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (installed / "entry_points.txt").write_text("\n".join(lines))


def run_block(block: Block, directory: Path) -> None:
    named = NAMED.match(block.text)
    if block.language == "bash":
        for line in block.text.splitlines():
            run_command(line, directory)
    elif block.language == "toml":
        install(block.text, directory)
    elif named:
        (directory / named[1]).write_text(block.text)
    else:
        exec(compile(block.text, block.document, "exec"), {"__name__": "block"})


@pytest.fixture
def own_parts(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules beside the documents can be imported, and the parts that they register are gone afterwards."""
    for name in smalti.__all__:
        registry = getattr(smalti, name)
        if isinstance(registry, Registry):
            monkeypatch.setattr(registry, "_kinds", dict(registry.kinds()))
    monkeypatch.setattr(plugins, "_LOADED", {})
    monkeypatch.syspath_prepend(scratch)
    yield
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "").parent == scratch:
            del sys.modules[name]


@pytest.mark.usefixtures("own_parts")
def test_every_block_runs(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scratch)
    counts = {"bash": 0, "python": 0, "toml": 0}
    for block in blocks():
        assert block.language in counts, f"{block.document} has a block of {block.language}: no test runs it"
        counts[block.language] += 1
        run_block(block, scratch)
    assert counts["bash"] >= 4
    assert counts["python"] >= 2


def test_every_target_of_the_documents_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        line.split()[1]
        for b in blocks()
        if b.language == "bash"
        for line in b.text.splitlines()
        if line.startswith("make ")
    }
    assert named <= targets


def test_the_tables_are_those_of_the_records() -> None:
    subprocess.run([sys.executable, ROOT / "benchmarks" / "tables.py", "--check"], check=True)


def test_links_between_documents_lead_somewhere() -> None:
    for document in (*DOCUMENTS, "CHANGELOG.md"):
        text = (ROOT / document).read_text()
        for link in re.findall(r"\]\((?!https?://)([^)#]+)\)", text):
            assert ((ROOT / document).parent / link).exists(), f"{document} links to {link}"


def test_every_verb_has_help_with_an_example() -> None:
    from typer.testing import CliRunner

    from smalti.app.cli import add_commands, app

    add_commands(app)  # only `main` adds the commands of the studies
    names = [
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    ]
    assert len(names) == 25
    for name in names:
        result = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
        assert result.exit_code == 0
        assert "Example" in result.output, name
        assert f"smalti {name}" in result.output, name


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_command("smalti demo --write-images pictures --num 60", tmp_path)
    settings = [*SMALL.split(), "training.steps=3", "size=16"]
    examples = ROOT / "examples"
    forked.run(examples / "tokenize_folder.py", "pictures", "runs/example", *settings, folder=tmp_path)
    run_command("smalti train-prior runs/example", tmp_path)
    forked.run(examples / "overview.py", "runs/example", "overview.png", folder=tmp_path)
    assert (tmp_path / "overview.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["own_loop", "own_codes", "foreign_encoder"])
def test_examples_of_parts_run(name: str, tmp_path: Path) -> None:
    printed = forked.run(ROOT / "examples" / f"{name}.py", folder=tmp_path)
    assert "codes" in printed or "grids" in printed


def private_names(source: str) -> list[str]:
    """Imports of modules of smalti, and attributes of the package, that are not public."""
    tree = ast.parse(source)
    found: list[str] = []
    aliases: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("smalti."):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in names if name.removeprefix("smalti.") not in smalti.__all__]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("smalti.")]
            aliases |= {alias.asname or alias.name for alias in node.names if alias.name == "smalti"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            # Of a chain such as smalti.quantizers.fsq.FSQ, this is the first attribute.
            found += [f"smalti.{node.attr}"] if node.attr not in smalti.__all__ else []
    return found


@pytest.mark.parametrize("name", ["own_quantizer", "own_prior", "own_loop", "own_codes", "foreign_encoder"])
def test_examples_use_public_names_only(name: str) -> None:
    source = (ROOT / "examples" / f"{name}.py").read_text()
    assert "import smalti" in source
    assert private_names(source) == []


def test_documents_use_public_names_only() -> None:
    sources = [block.text for block in blocks() if block.language == "python"]
    assert any("smalti." in source for source in sources)
    assert [name for source in sources for name in private_names(source)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import smalti\nsmalti.FSQ(levels=(3,)).config.levels", []),
        ("import smalti\nsmalti.quantizers.fsq.FSQ()", ["smalti.quantizers"]),
        ("import smalti as s\ndef f():\n    return s.load_trained", ["smalti.load_trained"]),
        ("import smalti.nn.levels", ["smalti.nn.levels"]),
        ("from smalti.quantizers.fsq import FSQ", ["smalti.quantizers.fsq.FSQ"]),
        ("from smalti import FSQ, core", ["smalti.core"]),
        ("import torch\ntorch.nn.levels", []),
    ],
)
def test_a_private_name_is_found(source: str, found: list[str]) -> None:
    assert private_names(source) == found


def test_a_quantizer_of_ones_own_is_used_by_name(tmp_path: Path) -> None:
    (tmp_path / "own_quantizer.py").write_text((ROOT / "examples" / "own_quantizer.py").read_text())
    run_command("smalti demo --write-images pictures --num 60", tmp_path)
    for command in (
        "train image --data pictures --out runs/sign size=16 model.quantizer.kind=sign bits=6 "
        f"{SMALL} training.steps=3",
        "encode runs/sign --data pictures --out sign.parquet",
        "decode runs/sign sign.parquet --out from_signs",
    ):
        variables = {"SMALTI_PLUGINS": "own_quantizer"}
        forked.run("-m", "smalti", *command.split(), folder=tmp_path, variables=variables)
    given, decoded = (list((tmp_path / name).rglob("*.png")) for name in ("pictures", "from_signs"))
    assert len(decoded) == len(given) > 0
