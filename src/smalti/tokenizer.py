"""A trained tokenizer: an autoencoder, the priors over its codes, and the modality that it was made for."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from smalti.files import atomic_file
from smalti.interfaces import Conditions, InputError
from smalti.models.prior import LearnedPrior
from smalti.trained import LEARNED, PRIOR_DIRECTORY, UNIGRAM_FILE, TrainedModel, prior_directories
from smalti.training.checkpoints import RunDirectory

PARTS = ("config.json", "model.safetensors", UNIGRAM_FILE)
PRIOR_PARTS = ("config.json", "model.safetensors")


def load(path_or_hub_name: str | Path, device: str | torch.device | None = None) -> Tokenizer:
    """Load a tokenizer from a run, from what `save_pretrained` wrote, or from the Hugging Face Hub.

    Args:
        path_or_hub_name: a directory, or `owner/name`.
        device: None is a GPU if there is one.

    Raises:
        InputError: when there is no such run, it is half written, broken, or from a newer version.
    """
    return Tokenizer.from_pretrained(path_or_hub_name, device)


def load_trained(
    path_or_hub_name: str | Path, device: str | torch.device | None = None, load_priors: bool = True
) -> TrainedModel:
    """A run, or what is on the Hub, with or without codes; see `load`."""
    return TrainedModel.load(_locate(path_or_hub_name), device, load_priors)


@final
class Tokenizer:
    """Pictures to codes, codes to pictures, and new pictures from a prior.

    Args:
        trained: a model with codes, and its priors.

    Raises:
        InputError: when the model has no codes.
    """

    def __init__(self, trained: TrainedModel) -> None:
        self.trained, self.autoencoder = trained, trained.autoencoder
        self.recipe, self.classes, self.fingerprint = trained.recipe, trained.classes, trained.fingerprint
        self.directory, self.modality, self.device = trained.directory, trained.modality, trained.device
        self.priors = trained.priors
        """By name, from the least to the most informed."""

    @classmethod
    def from_pretrained(
        cls, path_or_hub_name: str | Path, device: str | torch.device | None = None, load_priors: bool = True
    ) -> Tokenizer:
        """See `load`; without `load_priors` the learned priors are left alone, whatever their state."""
        return cls(load_trained(path_or_hub_name, device, load_priors))

    @property
    def learned(self) -> LearnedPrior | None:
        """The prior that samples are drawn from, unless another is named."""
        return self.trained.learned.get(LEARNED)

    @property
    def code_shape(self) -> tuple[int, ...]:
        """`(G, *grid)`: shape of the codes of one item."""
        return (self.autoencoder.num_codebooks, *self.autoencoder.grid)

    @torch.no_grad()
    def encode(self, images: Any, batch_size: int = 64) -> Int64[Tensor, "b g h w"]:
        """Codes of pictures.

        Args:
            images: uint8 `(B, C, H, W)` or `(C, H, W)`, floats in [-1, 1], a picture of Pillow, a path, or
                a list of these.
            batch_size: pictures at a time.

        Raises:
            InputError: for another size or range.
        """
        signal = self.modality.check(images)
        parts = [self.autoencoder.encode(part.to(self.device)).cpu() for part in signal.split(batch_size)]
        return torch.cat(parts)

    @torch.no_grad()
    def decode(
        self, codes: Int64[Tensor, "b g h w"], batch_size: int = 64
    ) -> UInt8[Tensor, "b c height width"]:
        """Pictures of codes, uint8.

        Raises:
            InputError: for codes out of range or of another shape.
        """
        if codes.ndim != 1 + len(self.code_shape) or tuple(codes.shape[1:]) != self.code_shape:
            raise InputError(
                f"expected codes of shape (B, {', '.join(map(str, self.code_shape))}), received "
                f"{tuple(codes.shape)}: give codes that this model made"
            )
        parts = [
            self.modality.to_pixels(self.autoencoder.decode(part.to(self.device)).cpu())
            for part in codes.split(batch_size)
        ]
        return torch.cat(parts)

    def reconstruct(self, images: Any, batch_size: int = 64) -> UInt8[Tensor, "b c height width"]:
        """`decode(encode(images))`."""
        return self.decode(self.encode(images, batch_size), batch_size)

    def sample_codes(
        self,
        num: int,
        class_name: str | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        batch_size: int = 64,
        prior: str = LEARNED,
        progress: Callable[[int, int], None] | None = None,
    ) -> Int64[Tensor, "b g h w"]:
        """Draw code grids from the learned prior.

        Args:
            num: how many.
            class_name: one of `classes`; None draws without naming a class.
            temperature, top_k, top_p: of each draw.
            seed: None draws differently each time.
            batch_size: grids at a time; it is part of what a seed draws.
            prior: name of the learned prior.
            progress: called with (symbols drawn, symbols in all), counted once a batch.

        Raises:
            InputError: when there is no learned prior or no such class, or a setting is out of range.
        """
        learned = self._learned(prior)
        if num < 1:
            raise InputError(f"expected num of at least 1, received {num}; ask for one sample or more")
        generator = torch.Generator()
        generator.manual_seed(seed) if seed is not None else generator.seed()
        label = -1 if class_name is None else self.label(class_name)
        parts: list[Tensor] = []
        for labels in torch.full((num,), label, device=self.device).split(batch_size):
            conditions = Conditions(labels if learned.network.num_classes else None)
            codes = learned.sample(
                len(labels),
                conditions,
                temperature,
                top_k,
                top_p,
                generator,
                progress and _of_batch(progress, len(parts), math.ceil(num / batch_size)),
            )
            parts.append(codes.cpu())
        return torch.cat(parts)

    def sample(
        self, num: int, class_name: str | None = None, **settings: Any
    ) -> UInt8[Tensor, "b c height width"]:
        """New pictures, uint8; the arguments are those of `sample_codes`."""
        return self.decode(self.sample_codes(num, class_name, **settings))

    def _learned(self, name: str) -> LearnedPrior:
        known = self.trained.learned
        if name in known:
            return known[name]
        if name == LEARNED or not known:
            raise InputError(
                f"expected a learned prior in {self.directory / PRIOR_DIRECTORY}, found none: "
                f"run `smalti train-prior {self.directory}` first"
            )
        raise InputError(
            f"expected a learned prior of this run, received {name!r}: there are {', '.join(known)}"
        )

    def label(self, class_name: str) -> int:
        """The label of a class.

        Raises:
            InputError: when there is no such class.
        """
        if class_name not in self.classes:
            known = (
                ", ".join(self.classes) if self.classes else "none: this model was trained without classes"
            )
            raise InputError(
                f"expected a class of this model, received {class_name!r}: the classes are {known}"
            )
        return self.classes.index(class_name)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write configuration and weights, nothing else, where `load` finds them."""
        target = Path(directory)
        folders = [(Path(), PARTS)]
        if self.trained.learned:
            folders += [(Path(path.name), PRIOR_PARTS) for path in prior_directories(self.directory)]
        for folder, parts in folders:
            for part in parts:
                if (self.directory / folder / part).is_file():
                    with atomic_file(target / folder / part) as temporary:
                        shutil.copyfile(self.directory / folder / part, temporary)
        exported = RunDirectory(target)
        config = exported.read_config()
        # Where the training data lay is nobody else's business.
        for key in ("data", "described", "device"):
            config.pop(key, None)
        exported.write_config(config)

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload to the Hugging Face Hub; gives the address.

        Args:
            repository: `owner/name`.
            private: of a repository that does not exist yet.
            token: None takes the one that is logged in.
        """
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        address = api.create_repo(repository, private=private, exist_ok=True)
        with TemporaryDirectory() as directory:
            self.save_pretrained(directory)
            api.upload_folder(
                repo_id=repository, folder_path=directory, commit_message="Upload a smalti tokenizer"
            )
        return str(address)


def _of_batch(progress: Callable[[int, int], None], batch: int, batches: int) -> Callable[[int, int], None]:
    """What one of several batches of equal work reports, as progress of all of them."""
    return lambda done, total: progress(batch * total + done, batches * total)


def _locate(path_or_hub_name: str | Path) -> Path:
    """A local directory as it is, or a snapshot of a repository on the Hub."""
    path = Path(path_or_hub_name).expanduser()
    text = str(path_or_hub_name)
    # Where there is a folder `runs`, `runs/mien` is a slip of the pen and not a repository.
    if path.exists() or path.parent.is_dir() or text.count("/") != 1 or text.startswith((".", "~", "/")):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [*PARTS, *(f"{PRIOR_DIRECTORY}*/{part}" for part in PRIOR_PARTS)]
    try:
        return Path(snapshot_download(text, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"expected a run, found no directory {text} here and none of that name on the Hub "
            f"({reason}): check the path"
        ) from None
