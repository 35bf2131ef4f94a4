"""A trained tokenizer: an autoencoder, the priors over its codes, and the modality that it was made for."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from smalti.autoregressive.pixelcnn import GatedPixelCNN
from smalti.files import atomic_file
from smalti.interfaces import Autoencoder, Conditions, InputError, Prior
from smalti.modalities.image import ImageModality
from smalti.models.prior import LabelledPrior, LearnedPrior, UniformPrior, UnigramPrior
from smalti.models.vqvae import VQVAE
from smalti.recipes import PriorRecipe, Recipe, parse
from smalti.training.checkpoints import RunDirectory, load_weights

PRIOR_DIRECTORY = "prior"
UNIGRAM_FILE = "unigram.json"
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


@final
class Tokenizer:
    """Pictures to codes, codes to pictures, and new pictures from a prior.

    Args:
        recipe: how it was made.
        autoencoder: in evaluation mode.
        classes: names of the classes, by label.
        fingerprint: of the autoencoder's weights: codes carry it.
        unigram: frequencies of the codes, if they were counted.
        learned: the learned prior, if it was trained.
        directory: where it was loaded from.
    """

    def __init__(
        self,
        recipe: Recipe,
        autoencoder: Autoencoder,
        classes: Sequence[str],
        fingerprint: str,
        unigram: UnigramPrior | None,
        learned: LearnedPrior | None,
        directory: Path,
    ) -> None:
        self.recipe, self.autoencoder, self.classes = recipe, autoencoder, tuple(classes)
        self.fingerprint, self.unigram, self.learned = fingerprint, unigram, learned
        self.directory = directory
        self.modality = ImageModality(recipe.data)

    @classmethod
    def from_pretrained(
        cls, path_or_hub_name: str | Path, device: str | torch.device | None = None, load_prior: bool = True
    ) -> Tokenizer:
        """See `load`; without `load_prior` the learned prior is left alone, whatever its state."""
        directory = _locate(path_or_hub_name)
        run = RunDirectory(directory)
        config = run.read_config("kind")
        if config["kind"] != "autoencoder":
            raise InputError(
                f"expected an autoencoder's run, {directory} holds a {config['kind']}: "
                "give the directory above it"
            )
        target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        config = run.read_config("recipe", "classes")
        recipe = parse(Recipe, config["recipe"], str(run.config_path))
        if not isinstance(config["classes"], list) or not all(isinstance(c, str) for c in config["classes"]):
            raise InputError(
                f"expected a list of names as 'classes' in {run.config_path}: restore it, or train anew"
            )
        autoencoder = VQVAE(recipe.model, ImageModality(recipe.data).spec)
        load_weights(autoencoder, run.read_model(), directory)
        autoencoder.to(target).eval()
        fingerprint = run.fingerprint()
        unigram = _load_unigram(directory / UNIGRAM_FILE, autoencoder, fingerprint)
        learned = None
        if load_prior:
            learned = _load_prior(
                directory / PRIOR_DIRECTORY, autoencoder, len(config["classes"]), fingerprint
            )
        return cls(
            recipe,
            autoencoder,
            config["classes"],
            fingerprint,
            unigram.to(target) if unigram else None,
            learned.to(target).eval() if learned else None,
            directory,
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.autoencoder.parameters()).device

    @property
    def code_shape(self) -> tuple[int, ...]:
        """`(G, *grid)`: shape of the codes of one item."""
        return (self.autoencoder.num_codebooks, *self.autoencoder.grid)

    @property
    def priors(self) -> dict[str, Prior]:
        """The priors that there are, from the least to the most informed."""
        autoencoder = self.autoencoder
        uniform = UniformPrior(autoencoder.num_codes, autoencoder.num_codebooks, autoencoder.grid)
        priors: list[Prior] = [uniform.to(self.device)]
        if self.unigram is not None:
            priors.append(self.unigram)
        if self.learned is not None:
            priors.append(self.learned)
            if self.learned.network.num_classes:
                priors.append(LabelledPrior(self.learned))
        return {prior.name: prior for prior in priors}

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
        progress: Callable[[int, int], None] | None = None,
    ) -> Int64[Tensor, "b g h w"]:
        """Draw code grids from the learned prior.

        Args:
            num: how many.
            class_name: one of `classes`; None draws without naming a class.
            temperature, top_k, top_p: of each draw.
            seed: None draws differently each time.
            batch_size: grids at a time; it is part of what a seed draws.
            progress: called with (symbols drawn, symbols in all), counted once a batch.

        Raises:
            InputError: when there is no learned prior or no such class, or a setting is out of range.
        """
        if self.learned is None:
            raise InputError(
                f"expected a learned prior in {self.directory / PRIOR_DIRECTORY}, found none: "
                f"run `smalti train-prior {self.directory}` first"
            )
        if num < 1:
            raise InputError(f"expected num of at least 1, received {num}; ask for one sample or more")
        generator = torch.Generator()
        generator.manual_seed(seed) if seed is not None else generator.seed()
        label = -1 if class_name is None else self.label(class_name)
        parts: list[Tensor] = []
        for labels in torch.full((num,), label, device=self.device).split(batch_size):
            conditions = Conditions(labels if self.learned.network.num_classes else None)
            codes = self.learned.sample(
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
        for source, parts in ((Path(), PARTS), (Path(PRIOR_DIRECTORY), PRIOR_PARTS)):
            if source.name == PRIOR_DIRECTORY and self.learned is None:
                continue
            for part in parts:
                if (self.directory / source / part).is_file():
                    with atomic_file(target / source / part) as temporary:
                        shutil.copyfile(self.directory / source / part, temporary)
        exported = RunDirectory(target)
        config = exported.read_config()
        # Where the training data lay is nobody else's business.
        config.pop("data", None)
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


def write_unigram(path: Path, prior: UnigramPrior, fingerprint: str) -> None:
    """Write the counts of the codes, with the model that they belong to."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps({"model": fingerprint, "counts": prior.counts.tolist()}))


def new_prior(recipe: PriorRecipe, autoencoder: Autoencoder, num_classes: int) -> LearnedPrior:
    """An untrained prior over an autoencoder's codes."""
    network = GatedPixelCNN(recipe.network, autoencoder.num_codes, autoencoder.num_codebooks, num_classes)
    return LearnedPrior(network, autoencoder.grid)


def _load_unigram(path: Path, autoencoder: Autoencoder, fingerprint: str) -> UnigramPrior | None:
    if not path.is_file():
        return None
    prior = UnigramPrior(autoencoder.num_codes, autoencoder.num_codebooks, autoencoder.grid)
    try:
        stored = json.loads(path.read_text())
        counts = torch.tensor(stored["counts"], dtype=torch.int64)
        if stored["model"] != fingerprint:
            return None  # counts of an earlier checkpoint; `train` counts again when it ends
        if counts.shape != prior.counts.shape:
            raise ValueError(
                f"expected counts of shape {tuple(prior.counts.shape)}, received {tuple(counts.shape)}"
            )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is broken ({error}): remove it and run `smalti train` again") from None
    prior.counts.copy_(counts)
    return prior


def _load_prior(
    directory: Path, autoencoder: Autoencoder, num_classes: int, fingerprint: str
) -> LearnedPrior | None:
    run = RunDirectory(directory)
    if not run.model_path.is_file():
        return None
    config = run.read_config("autoencoder", "recipe")
    if config["autoencoder"] != fingerprint:
        raise InputError(
            f"the prior in {directory} was trained on codes of another state of the autoencoder "
            f"({config['autoencoder']}, now {fingerprint}): "
            f"remove {directory} and run `smalti train-prior` again"
        )
    recipe = parse(PriorRecipe, config["recipe"], str(run.config_path))
    prior = new_prior(recipe, autoencoder, num_classes)
    load_weights(prior, run.read_model(), directory)
    return prior


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

    patterns = [*PARTS, *(f"{PRIOR_DIRECTORY}/{part}" for part in PRIOR_PARTS)]
    try:
        return Path(snapshot_download(text, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"expected a run, found no directory {text} here and none of that name on the Hub "
            f"({reason}): check the path"
        ) from None
