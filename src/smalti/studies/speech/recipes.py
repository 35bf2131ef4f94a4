"""The experiments with speech, at each budget."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from smalti.app.recipes import speech
from smalti.autoregressive.wavenet import WaveNetConfig
from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.recipe import Recipe
from smalti.training.loop import TrainingConfig

PAPER_PHONEMES = "49.3 % at 128 codes, 25 a second; 7.2 % for the most frequent phoneme"
BUDGETS = ("tiny", "cpu", "paper")
STUDIES = ("speech", "conversion", "phonemes")
DIGIT = r"^(\d)_"
"""Pattern that reads the spoken digit from a file name of the Free Spoken Digit Dataset."""


class SpeechStudy(Configuration):
    """One experiment.

    Attributes:
        name: of the folder and the records.
        question: what it answers, a sentence.
        recipe: the model and its prior, but for the seed.
        content_pattern: over item names, with one group: a number for what is said.
        converted: utterances of the test split that are reconstructed and converted.
        temperature: of the decoder's draws.
        judge_steps: of the training of each judge.
    """

    name: str
    question: str
    recipe: Recipe
    content_pattern: str | None = None
    converted: int = Field(default=300, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    judge_steps: int = Field(default=1500, ge=1)


def speech_study(name: str, budget: str) -> SpeechStudy:
    """An experiment at a budget.

    Raises:
        InputError: when there is no such experiment or budget.
    """
    if budget not in BUDGETS:
        raise InputError(f"expected a budget, received {budget!r}: there are {', '.join(BUDGETS)}")
    if name == "phonemes":
        study = SpeechStudy(
            name="phonemes",
            question="How much of the phonemes is in units that were learned without labels?",
            recipe=speech.units(),
        )
    elif name == "speech":
        recipe = speech.vctk() if budget == "paper" else speech.digits()
        study = SpeechStudy(
            name="speech",
            question="Do codes keep what is said and leave to the label who says it?",
            recipe=recipe,
            content_pattern=DIGIT if budget != "paper" else None,
        )
    elif name == "conversion":
        study = SpeechStudy(
            name="conversion",
            question="How well do codes convert voices where the decoder need not learn every sample?",
            recipe=speech.digits_spectral(),
            content_pattern=DIGIT,
        )
    else:
        raise InputError(f"expected {', '.join(STUDIES)}, received {name!r}")
    return _tiny(study) if budget == "tiny" else study


def _tiny(study: SpeechStudy) -> SpeechStudy:
    """Seconds: to see that every part runs, not what it reaches."""
    training: dict[str, Any] = {"steps": 3, "batch_size": 2, "log_every": 1, "checkpoint_every": 2}

    def short(config: TrainingConfig) -> TrainingConfig:
        return config.model_copy(update=training)

    recipe = study.recipe
    prior = recipe.prior.model_copy(
        update={"network": WaveNetConfig.tiny(), "length": 8, "training": short(recipe.prior.training)}
    )
    changes: dict[str, Any] = {"training": short(recipe.training), "prior": prior}
    if recipe.pretraining is not None:
        task = recipe.pretraining.task.model_copy(update={"num_clusters": 4, "clusterings": 1})
        changes["pretraining"] = recipe.pretraining.model_copy(
            update={"task": task, "training": short(recipe.pretraining.training)}
        )
    return study.model_copy(
        update={"recipe": recipe.model_copy(update=changes), "converted": 3, "judge_steps": 3}
    )
