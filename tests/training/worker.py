"""A small training run as a program of its own, so that tests can kill it or start it on several ranks.

python worker.py RUN STEPS [vqvae | adversarial | objective]

With KILLED_AFTER in the environment, the process is killed after so many seconds of its own processor time,
counted from its second validation; it has then written a checkpoint.
"""

import itertools
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from smalti.core.models import Trainable
from smalti.core.signals import SignalSpec
from smalti.data.loader import Loader
from smalti.encoders.conv import ConvEncoderConfig
from smalti.models.vqvae import VQVAE, VQVAEConfig
from smalti.objectives.adversarial import AdversarialConfig
from smalti.objectives.discriminators.patch import PatchDiscriminatorConfig
from smalti.objectives.objective import ObjectiveConfig
from smalti.objectives.pixel import L1Config
from smalti.training.checkpoints import RunDirectory
from smalti.training.engine import Engine
from smalti.training.loop import TrainingConfig, fit

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.training.adversarial import Adversarial

SPEC = SignalSpec(channels=1, size=(8, 8))


def pictures(num: int = 200) -> np.ndarray:
    """Smooth random pictures, uint8."""
    rng = np.random.default_rng(7)
    coarse = torch.from_numpy(rng.uniform(0, 255, (num, 1, 3, 3))).float()
    return torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear").to(torch.uint8).numpy()


def to_model(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float() / 127.5 - 1


def vqvae() -> VQVAE:
    tiny = VQVAEConfig.tiny()
    encoder = ConvEncoderConfig(channels=8, residual_channels=4, residual_blocks=1, strides=(2,))
    return tiny.changed({"encoder": encoder}).build(SPEC)


def objective() -> Trainable:
    """The same model with further terms, among them a discriminator that joins in later."""
    term = AdversarialConfig(
        discriminator=PatchDiscriminatorConfig(width=4, layers=1),
        start=6,
        every=2,
        lecam=0.1,
        r1=0.1,
        feature_matching=0.5,
    )
    settings = ObjectiveConfig(likelihood=0.5, terms={"l1": L1Config(weight=2), "judge": term})
    return settings.build(vqvae())


MODELS = {"vqvae": vqvae, "adversarial": Adversarial, "objective": objective}


def main(run: str, steps: int, name: str = "vqvae") -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MODELS[name]()
    config = TrainingConfig(
        steps=steps,
        batch_size=32,
        learning_rate=1e-3,
        schedule="cosine",
        warmup_steps=5,
        weight_ema=0.9,
        log_every=5,
        checkpoint_every=7,
        validate_every=10,
    )
    engine = Engine()
    loader = Loader(pictures(), batch_size=32, device=engine.device, to_model=to_model)

    killed_after = float(os.environ.get("KILLED_AFTER", 0))
    validations = itertools.count()

    def validate(candidate: Trainable) -> dict[str, float]:
        if next(validations) == 1 and killed_after:
            signal.setitimer(signal.ITIMER_PROF, killed_after)  # SIGPROF ends a process at once
        return {"distance": abs(candidate.trained_steps - steps // 2)}

    # The weights to keep are then others than the last.
    fit(model, loader.batch, config, RunDirectory(run), engine, validate, score="distance")
    if engine.world > 1:
        rank = Path(run) / f"rank{os.environ['RANK']}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, rank)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
