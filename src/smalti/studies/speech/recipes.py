"""Speech studies at each budget."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from smalti.app.recipes import speech
from smalti.autoregressive.wavenet import WaveNetConfig
from smalti.core.config import Configuration
from smalti.core.errors import InputError
from smalti.core.suggestions import suggestion
from smalti.recipe import Recipe
from smalti.training.loop import TrainingConfig

PAPER_PHONEMES = "49.3 % at 128 codes, 25 a second; 7.2 % for the most frequent phoneme"
BUDGETS = ("tiny", "cpu", "paper")
STUDIES = ("speech", "conversion", "voices-codec", "phonemes")
DIGIT = r"^(\d)_"
"""Pattern that reads the spoken digit from a file name of the Free Spoken Digit Dataset."""


class SpeechStudy(Configuration):
    """A speech study: the model and the settings of its evaluation.

    Attributes:
        name: name of the folder and the records.
        question: the question that it answers, one sentence.
        recipe: the model and its prior, without the seed.
        content_pattern: regular expression over item names, with one group that holds the number of the
            spoken content.
        are_digits: whether that number is a spoken digit, which an independent judge can recognise.
        converted: number of test utterances to reconstruct and convert.
        temperature: sampling temperature of the decoder.
        judge_steps: training steps of each judge.
    """

    name: str
    question: str
    recipe: Recipe
    content_pattern: str | None = None
    are_digits: bool = False
    converted: int = Field(default=300, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    judge_steps: int = Field(default=1500, ge=1)


def speech_study(name: str, budget: str) -> SpeechStudy:
    """Return a study at a budget.

    Raises:
        InputError: when there is no such study or budget.
    """
    if budget not in BUDGETS:
        raise InputError(f"expected a budget, received {budget!r}: {suggestion(budget, BUDGETS)}")
    if name == "phonemes":
        study = SpeechStudy(
            name="phonemes",
            question="How much phoneme content is in units that were learned without labels?",
            recipe=speech.units(),
        )
    elif name == "speech":
        recipe = speech.vctk() if budget == "paper" else speech.digits()
        study = SpeechStudy(
            name="speech",
            question="Do the codes hold the spoken content, and the label the speaker?",
            recipe=recipe,
            content_pattern=DIGIT if budget != "paper" else None,
            are_digits=budget != "paper",
        )
    elif name == "conversion":
        study = SpeechStudy(
            name="conversion",
            question="How well do codes convert voices if the decoder models spectrograms, not samples?",
            recipe=speech.digits_spectral(),
            content_pattern=DIGIT,
            are_digits=True,
        )
    elif name == "voices-codec":
        study = SpeechStudy(
            name="voices-codec",
            question="How well do codes convert voices if the decoder predicts waveforms by their spectra?",
            recipe=speech.digits_codec(),
            content_pattern=DIGIT,
            are_digits=True,
        )
    else:
        raise InputError(f"expected a study of speech, received {name!r}: {suggestion(name, STUDIES)}")
    return _tiny(study) if budget == "tiny" else study


def _tiny(study: SpeechStudy) -> SpeechStudy:
    """Shrink a study to run in seconds, as a smoke test of every part."""
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
