"""Run directories: JSON and safetensors files, each written atomically.

config.json          the complete configuration; its `format` guards against newer versions
model.safetensors    the weights to use: best on validation data or last; averaged if the run averages weights
metrics.jsonl        one line per log or validation step
evaluation.json      the report of the last evaluation
figures/             plots
state/step-N/        everything needed to resume from step N, bit for bit
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from smalti.core.errors import InputError
from smalti.core.files import atomic_directory, atomic_file
from smalti.core.metadata import parse_json
from smalti.core.weights import digest, read_tensors, short, write_tensors

FORMAT = 2
RESULTS = "evaluation.json"
"""Name of the report of the last evaluation."""


@dataclass(frozen=True)
class State:
    """Everything needed to resume a training run: named tensors and the position in the run."""

    step: int
    metrics_bytes: int
    tensors: dict[str, Tensor]


@final
class RunDirectory:
    """Reads and writes one run.

    Args:
        path: the directory; it need not exist yet.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.json"
        self.model_path = self.path / "model.safetensors"
        self.metrics_path = self.path / "metrics.jsonl"
        self.figures_path = self.path / "figures"
        self._states = self.path / "state"

    @property
    def exists(self) -> bool:
        """True if a run was started in this directory."""
        return self.config_path.is_file()

    @property
    def is_begun(self) -> bool:
        """True if weights or a checkpoint exist, also of a stage inside the run: its settings are fixed."""
        if not self.exists:
            return False  # a folder of runs is none itself
        states = (*self._states.glob("step-*"), *self.path.glob(f"*/{self._states.name}/step-*"))
        return self.model_path.is_file() or bool(states)

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.json, including the format version."""
        with atomic_file(self.config_path) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **config}, indent=2) + "\n")

    def read_config(self, *needed: str) -> dict[str, Any]:
        """Read config.json and check that the needed keys are present.

        Raises:
            InputError: if the file is missing or broken, lacks a key, or was written by a newer version.
        """
        if self.path.is_file():
            raise InputError(f"expected a run directory, {self.path} is a file: pass the directory of a run")
        if not self.path.is_dir():
            raise InputError(
                f"expected a run directory, found nothing at {self.path}: check the path, or train a model"
            )
        if not self.config_path.is_file():
            raise InputError(
                f"expected a run directory, but {self.path} has no config.json: pass one that `train` wrote"
            )
        try:
            config = parse_json(self.config_path.read_bytes())
            version = config["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.config_path} is not a run configuration ({error}): restore it, or train again"
            ) from None
        if config.get("kind") == "module":
            raise InputError(
                f"expected a run or a saved tokenizer, {self.path} holds a single saved module: load it with "
                "from_pretrained of its class"
            )
        _check_format(version, self.path)
        missing = [key for key in needed if key not in config]
        if missing:
            raise InputError(f"{self.config_path} has no {missing[0]!r}: restore it, or train again")
        return config

    def write_model(self, tensors: dict[str, Tensor]) -> None:
        """Write model.safetensors."""
        with atomic_file(self.model_path) as temporary:
            write_tensors(tensors, temporary)

    def read_model(self) -> dict[str, Tensor]:
        """Read model.safetensors.

        Raises:
            InputError: if it is missing or broken.
        """
        if not self.model_path.is_file():
            raise InputError(
                f"{self.path} is incomplete: it has a config.json but no model.safetensors yet; "
                "run the same training command again to resume"
            )
        return read_tensors(self.model_path)

    def fingerprint(self) -> str:
        """Identifier of the weights in model.safetensors; see `smalti.core.weights.fingerprint`.

        That of a file in half precision is not that of the model, which computes in float32.

        Raises:
            InputError: if it is missing or broken.
        """
        return short(digest(self.read_model()))

    def write_state(self, state: State) -> None:
        """Write a checkpoint, then remove the older ones."""
        target = self._states / f"step-{state.step:09d}"
        if not target.exists():
            with atomic_directory(target) as temporary:
                write_tensors(state.tensors, temporary / "tensors.safetensors")
                where = {"format": FORMAT, "step": state.step, "metrics_bytes": state.metrics_bytes}
                (temporary / "state.json").write_text(json.dumps(where))
        for older in self._states.iterdir():
            if older != target:
                shutil.rmtree(older)

    def read_state(self) -> State | None:
        """Read the newest checkpoint; None if there is no checkpoint.

        Raises:
            InputError: if it is broken, or was written by a newer version.
        """
        # A directory appears under its name only when it is complete.
        complete = sorted(self._states.glob("step-*"))
        if not complete:
            return None
        try:
            where = parse_json((complete[-1] / "state.json").read_bytes())
            version = where["format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _broken(complete[-1], error) from None
        _check_format(version, complete[-1])
        try:
            tensors = read_tensors(complete[-1] / "tensors.safetensors")
            return State(where["step"], where["metrics_bytes"], tensors)
        except (OSError, ValueError, KeyError) as error:
            raise _broken(complete[-1], error) from None

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.metrics_path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl, without a last line left incomplete by a killed process.

        Raises:
            InputError: if the file is damaged.
        """
        if not self.metrics_path.is_file():
            return []
        lines = self.metrics_path.read_bytes().splitlines(keepends=True)
        try:
            records = [parse_json(line) for line in lines if line.endswith(b"\n")]
            if not all(isinstance(one, dict) and isinstance(one.get("step"), int) for one in records):
                raise ValueError("a line has no step")
        except ValueError as error:
            raise InputError(
                f"expected JSON lines in {self.metrics_path}, which is damaged ({error}): restore or "
                "remove it"
            ) from None
        return records

    @property
    def checkpoint_step(self) -> int:
        """Step of the newest checkpoint; 0 without one."""
        steps = (path.name.removeprefix("step-") for path in self._states.glob("step-*"))
        return max((int(step) for step in steps if step.isdecimal()), default=0)

    @property
    def best_step(self) -> int | None:
        """Step of the lowest validation score; None without validation data."""
        return next((line["step"] for line in reversed(self.metrics()) if line.get("is_best")), None)

    @property
    def seconds(self) -> float:
        """Training time recorded in metrics.jsonl, summed over resumptions."""
        return max((line["seconds"] for line in self.metrics() if "seconds" in line), default=0.0)

    @property
    def metrics_bytes(self) -> int:
        """Size of metrics.jsonl in bytes."""
        return self.metrics_path.stat().st_size if self.metrics_path.is_file() else 0

    def truncate_metrics(self, length: int) -> None:
        """Drop the lines written after a checkpoint; the resumed run writes them again."""
        if self.metrics_bytes > length:
            with self.metrics_path.open("r+b") as file:
                file.truncate(length)


def _check_format(version: object, path: Path) -> None:
    if version == 1:
        raise InputError(
            f"{path} was written by smalti 0.1 (format 1), this version reads only format {FORMAT}: train "
            "again, or use it with pip install 'smalti<0.2'"
        )
    if version != FORMAT:
        raise InputError(
            f"{path} has format {version}, this version of smalti reads {FORMAT}: "
            "upgrade smalti (pip install -U smalti)"
        )


def _broken(checkpoint: Path, error: Exception) -> InputError:
    return InputError(f"the checkpoint {checkpoint} is broken ({error}): remove it, or start a new run")
