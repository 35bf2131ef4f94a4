"""The objective of a training run: the likelihood, and weighted terms of the reconstruction beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, final

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from smalti.core.conditions import Batch
from smalti.core.config import Configuration
from smalti.core.distortion import mean_distortion, per_observed_dim
from smalti.core.errors import InputError
from smalti.core.models import ForwardPass, LatentVariableModel, Trainable
from smalti.core.phases import Phase
from smalti.core.results import Loss
from smalti.objectives.adversarial import Adversarial
from smalti.objectives.balance import balance_factor, gradients, linearised
from smalti.objectives.base import AnyTerm, PredictionTerm, Term

MODEL_PHASE = "model"


@final
class Objective(Trainable):
    """Trains a model by a weighted sum of its likelihood and of terms of its reconstruction.

        loss = w -ln p(x | z) / dims + sum_i w_i L_i(x̂, x) + (the model's loss of its latents)

    x̂ is the mean of p(x | z), and the last term that of the quantizer, or the KL divergence of a VAE. Each
    adversarial term adds a phase, in which its discriminator learns. The discriminators and their optimizers
    are part of a checkpoint, but not of the saved model.

    Args:
        model: the model to train, with a likelihood whose mean is known.
        terms: by name, under which they are logged.
        likelihood: weight w of the likelihood. At 0, the parameters of the likelihood itself, such as its
            scale, are still fitted, without effect on the model, so that its bounds keep their meaning.
        freeze_codes: train the decoder alone, so that codes remain as they are.

    Raises:
        InputError: if the model has no reconstruction in training, there is nothing to minimise, or a name is
            none of a phase.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        terms: Mapping[str, Term] | None = None,
        *,
        likelihood: float = 1.0,
        freeze_codes: bool = False,
    ) -> None:
        super().__init__()
        terms = dict(terms or {})
        self.likelihood, self.freeze_codes = likelihood, freeze_codes
        # A balanced term has no scale of its own, and a later one leaves nothing to minimise before it.
        others = [
            each
            for each in terms.values()
            if not (each.start or isinstance(each, PredictionTerm) or getattr(each, "balance", False))
        ]
        if likelihood < 0 or not (likelihood or others):
            raise InputError(
                "expected a likelihood weight above 0, or 0 beside a term of the reconstruction that starts "
                f"at step 0 and is not balanced, received {likelihood} and the terms "
                f"{', '.join(terms) or 'none'}: set "
                "objective.likelihood=1"
            )
        if terms and not model.family.is_per_position:
            raise InputError(
                f"expected a likelihood with a mean for the terms {', '.join(terms)}, received "
                f"{model.family.kind or type(model.family).__name__}: leave out the terms, or use another "
                "decoder"
            )
        if type(model).forward_pass is LatentVariableModel.forward_pass:
            raise InputError(
                f"expected a model with one reconstruction in training, received {model.title}: use a "
                "VQ-VAE, a hierarchy or a VAE, or leave out the objective"
            )
        for name in terms:
            if name == MODEL_PHASE or not name.replace("_", "").replace("-", "").isalnum():
                raise InputError(
                    f"expected names of terms of letters, digits, _ and -, other than {MODEL_PHASE}, "
                    f"received {name!r}: rename the term"
                )
        for name, term in terms.items():
            if isinstance(term, PredictionTerm):
                _check_predicted(name, term, model)
        self.model, self.terms = model, nn.ModuleDict(terms)
        self._reconstruction: Tensor | None = None

    @property
    def product(self) -> LatentVariableModel:
        """The model, which is validated and saved."""
        return self.model

    def train(self, mode: bool = True) -> Objective:
        """Set the mode of all parts; a model with frozen codes trains its decoder and likelihood alone."""
        super().train(mode)
        for part in self.model.children() if self.freeze_codes else ():
            part.train(mode and part in self._parts())
        return self

    def phases(self) -> Sequence[Phase]:
        """The model's phase, and one for each discriminator."""
        parameters = [each for part in self._parts() for each in part.parameters() if each.requires_grad]
        found = [Phase(MODEL_PHASE, tuple(parameters), self.loss)]
        for name, term in self._adversarial().items():
            found.append(
                Phase(
                    name,
                    tuple(term.discriminator.parameters()),
                    partial(self._discriminator_loss, name),
                    every=term.every,
                    start=term.discriminator_start,
                    learning_rate_scale=term.learning_rate_scale,
                    betas=(0.5, 0.9),
                )
            )
        return tuple(found)

    def loss(self, batch: Batch) -> Loss:
        """The model's loss; logs every term without its weight, and the factors of balanced ones."""
        run = self.model.forward_pass(batch)
        log_prob = self._likelihood(run, batch)
        distortion = mean_distortion(log_prob, batch)
        domain = self.model.signal.domain
        logged = {f"distortion_{domain.unit}_per_dim": per_observed_dim(distortion, batch, domain)}
        step, discriminators = self.trained_steps, self._adversarial().values()
        due = {name: term for name, term in self._reconstructed().items() if step >= term.start}
        is_judged = any(step >= term.discriminator_start for term in discriminators)
        reconstruction = self._observed(run, batch) if due or is_judged else None
        fitted = (self.likelihood or 1.0) * distortion
        values: dict[str, Tensor] = {}
        for name, term in due.items():
            values[name] = term(reconstruction, batch.data)
        adversarial = {name: values[name] for name in self._adversarial() if name in values}
        # For the phases of the discriminators, in the same step.
        self._reconstruction = reconstruction.detach() if is_judged and reconstruction is not None else None
        for name, value in values.items():
            if name not in adversarial:
                fitted = fitted + self._terms()[name].weight * value
        total, factors = self._with_adversarial(fitted, adversarial, run)
        # Nothing of the reconstruction depends on these, so they are no part of what is balanced.
        predicted = self._predicted(self.model, run.latents, batch)
        for name, value in predicted.items():
            total = total + self._terms()[name].weight * value
        values |= predicted
        logged |= {name: value.detach() for name, value in values.items()}
        logged |= {f"{name}_factor": factor for name, factor in factors.items()}
        return Loss(total + run.latent_loss, logged | run.terms)

    @torch.no_grad()
    def measure(self, model: LatentVariableModel, batches: Iterable[Batch]) -> dict[str, float]:
        """Average the terms without a discriminator over batches, without their weights.

        Args:
            model: this one, or a copy with averaged weights.
            batches: of held-out items.
        """
        terms = {
            name: term for name, term in self._reconstructed().items() if not isinstance(term, Adversarial)
        }
        sums, count = dict.fromkeys([*terms, *self._predicting()], 0.0), 0
        for batch in batches if terms or self._predicting() else ():
            reconstruction, observed = model.reconstruct(batch.data, batch.conditions), batch.observed()
            if observed is not None:
                reconstruction = torch.where(observed, reconstruction, batch.data)
            values = {name: term(reconstruction, batch.data) for name, term in terms.items()}
            if self._predicting():
                values |= self._predicted(model, model.latents(batch.data, batch.conditions), batch)
            for name, value in values.items():
                sums[name] += float(value) * len(batch.data)
            count += len(batch.data)
        return {name: value / count for name, value in sums.items() if count}

    def _with_adversarial(
        self, fitted: Tensor, adversarial: Mapping[str, Tensor], run: ForwardPass
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add adversarial terms, and return the factors of those that are balanced.

        A balanced term is scaled to its share of the gradient at the decoder's output; without gradients, as
        in evaluation, it has its weight alone.
        """
        factors: dict[str, Tensor] = {}
        if not adversarial or not run.output.requires_grad:
            weights = {name: self._adversarial()[name].weight for name in adversarial}
            return sum((weights[name] * value for name, value in adversarial.items()), fitted), factors
        at = [run.output, *(each for each in self.model.family.parameters() if each.requires_grad)]
        slopes = gradients(fitted, at)
        total = linearised(fitted, at, slopes)
        for name, value in adversarial.items():
            term = self._adversarial()[name]
            (slope,) = gradients(value, [run.output])
            factor = torch.full_like(value, term.weight)
            if term.balance:
                factors[name] = factor = term.weight * balance_factor(slopes[0], slope)
            total = total + factor * linearised(value, [run.output], [slope])
        return total, factors

    def _likelihood(self, run: ForwardPass, batch: Batch) -> Tensor:
        """ln p(x | z); without a weight, only the likelihood's own parameters depend on it."""
        if self.likelihood:
            return run.likelihood.log_prob(batch.data)
        return self.model.family(run.output.detach(), batch.conditions).log_prob(batch.data)

    def _predicted(
        self, model: LatentVariableModel, latents: Tensor | None, batch: Batch
    ) -> dict[str, Tensor]:
        """Terms of what the decoder predicts beside its output."""
        if not (terms := self._predicting()):
            return {}
        assert latents is not None, "a model with the method latents passes them on"
        observed, values = batch.observed(), {}
        for name, term in terms.items():
            given = latents if term.through_codes else latents.detach()
            prediction = model.decoder.predictions(given, batch.conditions)[term.reads]
            values[name] = term(prediction, batch.data, observed)
        return values

    def _observed(self, run: ForwardPass, batch: Batch) -> Tensor:
        """The reconstruction, with the signal in place of padding and missing values."""
        mean, observed = run.likelihood.straight_through_mean(), batch.observed()
        return mean if observed is None else torch.where(observed, mean, batch.data)

    def _discriminator_loss(self, name: str, batch: Batch) -> Loss:
        assert self._reconstruction is not None, "the model's phase runs first"
        return self._adversarial()[name].discriminator_loss(self._reconstruction, batch.data)

    def _parts(self) -> tuple[nn.Module, ...]:
        """The modules that are trained."""
        return (self.model.decoder, self.model.family) if self.freeze_codes else (self.model,)

    def _terms(self) -> dict[str, Any]:
        return dict(self.terms.items())

    def _predicting(self) -> dict[str, PredictionTerm]:
        return {name: term for name, term in self.terms.items() if isinstance(term, PredictionTerm)}

    def _reconstructed(self) -> dict[str, Any]:
        return {name: term for name, term in self.terms.items() if not isinstance(term, PredictionTerm)}

    def _adversarial(self) -> dict[str, Adversarial]:
        return {name: term for name, term in self.terms.items() if isinstance(term, Adversarial)}


def _check_predicted(name: str, term: PredictionTerm, model: LatentVariableModel) -> None:
    """Check that the decoder of a model makes the prediction that a term trains."""
    if term.reads not in model.decoder.predicted:
        raise InputError(
            f"expected a decoder that predicts {term.reads} for the term {name}, received a "
            f"{type(model.decoder).__name__}: leave out the term, or use another decoder "
            "(model.decoder.kind=harmonic predicts pitch)"
        )
    if type(model).latents is LatentVariableModel.latents:
        raise InputError(
            f"expected a model with one grid of latents for the term {name}, received {model.title}: use a "
            "VQ-VAE or a VAE, or leave out the term"
        )


def no_terms(model: LatentVariableModel, batches: Iterable[Batch]) -> dict[str, float]:
    """`Objective.measure` of a model that is trained by its own loss."""
    return {}


class ObjectiveConfig(Configuration):
    """Settings of an `Objective`.

    Attributes:
        likelihood: weight of -ln p(x | z), nats per dimension.
        terms: settings of further terms, by name; a term without a `kind` has its name as its kind.
        freeze: "codes" trains the decoder alone, from the weights of another run.
    """

    likelihood: float = Field(default=1.0, ge=0)
    terms: dict[str, AnyTerm] = Field(default_factory=dict)
    freeze: Literal["nothing", "codes"] = "nothing"

    @field_validator("terms", mode="before")
    @classmethod
    def _with_kinds(cls, terms: Any) -> Any:
        if not isinstance(terms, dict):
            return terms
        return {
            name: {"kind": name, **each} if isinstance(each, dict) else each for name, each in terms.items()
        }

    @property
    def is_plain(self) -> bool:
        """True if the model is trained by its own loss."""
        return self.likelihood == 1 and not self.terms and not self.freezes_codes

    @property
    def freezes_codes(self) -> bool:
        """True if the decoder alone is trained."""
        return self.freeze == "codes"

    def build(self, model: LatentVariableModel) -> Trainable:
        """Return what the training loop trains: the model itself, or an `Objective` with untrained terms.

        Raises:
            InputError: if the terms do not fit the model, or one is missing that its decoder needs.
        """
        terms = {name: config.build(model.signal) for name, config in self.terms.items()}
        read = {term.reads for term in terms.values() if isinstance(term, PredictionTerm)}
        if untrained := set(model.decoder.predicted) - read:
            name = min(untrained)
            raise InputError(
                f"expected a term that trains the {name} that the decoder predicts, received an objective "
                f"without one: add objective.terms.{name}.weight=4, or use another decoder"
            )
        if self.is_plain:
            return model
        return Objective(model, terms, likelihood=self.likelihood, freeze_codes=self.freezes_codes)
