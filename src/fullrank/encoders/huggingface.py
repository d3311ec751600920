"""Models of the Hugging Face hub, or of a folder in its layout, as encoders."""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fullrank.encoders.library import preprocessing_of
from fullrank.encoders.reading import REFUSALS
from fullrank.encoders.traced import TracedEncoder, reason
from fullrank.errors import DataError, FullrankError, UsageError
from fullrank.files import expanded
from fullrank.preprocessing import Preprocessing
from fullrank.specs import Spec

# The part of a model of images and texts that takes images.
IMAGE_TOWERS = ("vision_model", "vision_tower", "image_model", "vision_encoder", "visual")
# What is read of a repository: settings, and weights that hold no code.
SETTINGS = ("*.json",)
WEIGHTS = ("*.safetensors",)
_TRIED = Image.new("RGB", (300, 260), (90, 120, 150))


class HubEncoder(TracedEncoder):
    """A model of the Hugging Face hub, or of a folder in the same layout, without its classifier.

    A repository of timm, whose `config.json` names an `architecture`, is built by timm. Any other is built
    by `transformers.AutoModel`, which needs the extra `huggingface`. Weights are read from safetensors
    alone, and no code of a repository runs.

    h is the pooled output. If the weights lack that layer, as those of many classifiers do, h is the mean of
    the image tokens. Of a model of images and texts, only the part for images is used. `output_note` says so.

    Args:
        path: A folder, or a name on the hub such as `facebook/dinov2-small`.
        pretrained: Read the weights. Without them, only the configuration is read and weights are random.
        channels: Channels of the model, if it has more than the images. A grey image is then repeated.
        image_size: Height and width of the images.
        in_chans: Channels of the images.
        mean: The mean of each channel, or one number; with weights it is that of their processor, if known.
        std: The standard deviation of each channel, in the same form.

    Raises:
        UsageError: For a model without a forward on images, or images that it cannot take.
        DataError: For a folder or a repository that cannot be read.
    """

    def __init__(
        self,
        path: str,
        pretrained: bool = True,
        channels: int | None = None,
        *,
        image_size: int = 224,
        in_chans: int = 3,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.25,),
    ):
        channels = in_chans if channels is None else channels
        folder = _folder(path, pretrained)
        config = _config(folder, path)
        if "architecture" in config:
            fixed = config.get("pretrained_cfg", {}).get("fixed_input_size", False)
            settings: dict[str, Any] = {"img_size": image_size} if fixed else {}
            settings |= {"pretrained": pretrained, "in_chans": channels}
            module = _timm_model(folder, path, settings)
            notes: list[str] = []
        else:
            module, notes = _auto_model(folder, path, pretrained)
        self.config = config
        known = processor_of(path) if pretrained else None
        if known is not None and len(known.mean) in (1, channels):
            mean, std = known.mean, known.std
        super().__init__(
            module, name=path, image_size=image_size, in_chans=in_chans, channels=channels, mean=mean, std=std
        )
        self.output_note = "; ".join(filter(None, (self.output_note, *notes)))
        self.register_load_state_dict_pre_hook(_without_missing_pooler)  # type: ignore[no-untyped-call]

    def library_lines(self) -> dict[str, str]:
        """The configuration, from which the model is built where its folder is not."""
        return {"config": json.dumps(self.config)}

    @staticmethod
    def preprocessing_for(spec: Spec, size: int | None = None) -> Preprocessing | None:
        """The preprocessing that belongs to the weights of a spec."""
        return processor_of(str(spec.value), size)


def processor_of(path: str, size: int | None = None) -> Preprocessing | None:
    """The preprocessing of a repository: timm's configuration, or the model's image processor.

    `fit` calls the processor without rescaling and normalisation, so that pixels are its own.

    Args:
        path: A folder, or a name on the hub.
        size: The side of the input in pixels, in place of its own.

    Returns:
        The preprocessing; None if the repository has no image processor.

    Raises:
        UsageError: If the processor does not give squares.
        DataError: For a folder or a repository that cannot be read.
    """
    folder = _folder(path, False)
    config = _config(folder, path)
    if "architecture" in config:
        return preprocessing_of({"architecture": config["architecture"]} | config["pretrained_cfg"], size)
    settings = folder / "preprocessor_config.json"
    if not settings.is_file():
        return None
    with _quiet(path, "its image processor cannot be read"):
        transformers: Any = import_module("transformers")
        sizes = {} if size is None else _sizes(json.loads(settings.read_text("utf-8")), size)
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, **sizes
        )
        fit = partial(_processed, processor)
        side = fit(_TRIED).shape
    if side[0] != side[1]:
        raise UsageError(
            f"The image processor of {path} gives {side[0]} x {side[1]} pixels, not a square; give "
            "--image-size, --mean and --std instead."
        )
    normalises = getattr(processor, "do_normalize", True)
    mean, std = (processor.image_mean, processor.image_std) if normalises else ((0.0,), (1.0,))
    kind = type(processor).__name__
    return Preprocessing(fit, side[0], tuple(mean), tuple(std), f"by {kind}", f"the processor of {path}")


def _sizes(settings: dict[str, Any], size: int) -> dict[str, dict[str, int]]:
    """The settings of a processor for another side of its input; the share that is cropped stays."""
    square = {"height": size, "width": size}
    old, crop = settings.get("size"), settings.get("crop_size")
    shorter = old.get("shortest_edge") if isinstance(old, dict) else old
    if not settings.get("do_center_crop") or not shorter:
        return {"size": {"shortest_edge": size} if shorter and isinstance(old, dict) else square}
    side = crop.get("height", shorter) if isinstance(crop, dict) else crop or shorter
    return {"size": {"shortest_edge": round(shorter * size / side)}, "crop_size": square}


def _processed(processor: Any, image: Image.Image) -> np.ndarray:
    """An image as the processor gives it, (S, S, C) uint8."""
    made = processor(image.convert("RGB"), do_rescale=False, do_normalize=False, return_tensors="pt")
    pixels: np.ndarray = np.asarray(made["pixel_values"][0]).transpose(1, 2, 0)
    return pixels if pixels.dtype == np.uint8 else pixels.round().clip(0, 255).astype(np.uint8)


def _folder(path: str, weights: bool) -> Path:
    """The folder of a repository on this machine; it is downloaded if it is a name on the hub."""
    folder = expanded(path)
    if folder.is_dir():
        if weights and not any(folder.glob(WEIGHTS[0])):
            raise DataError(
                f"{folder} has no weights in safetensors, and other files may hold code; convert them, or "
                "write pretrained=false for random weights."
            )
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(path, allow_patterns=[*SETTINGS, *(WEIGHTS if weights else ())]))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        raise DataError(
            f"{path} is no folder here, and the hub does not give it ({reason(error)}); check the name and "
            "the connection, or give a folder."
        ) from None


def _config(folder: Path, path: str) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} has no readable config.json ({reason(error)}); give a model's folder."
        ) from None
    if not isinstance(config, dict):
        raise DataError(f"The config.json of {path} is no mapping; give the folder of a model.")
    return config


def _timm_model(folder: Path, path: str, settings: dict[str, Any]) -> nn.Module:
    import timm

    try:
        model: nn.Module = timm.create_model(f"local-dir:{folder}", num_classes=0, **settings)
    except (OSError, *REFUSALS) as error:
        raise DataError(f"timm cannot build {path} ({reason(error)}); check its config.json.") from None
    return model


def _auto_model(folder: Path, path: str, pretrained: bool) -> tuple[nn.Module, list[str]]:
    """The model of transformers that takes images, and what is said of it."""
    notes: list[str] = []
    with _quiet(path, "transformers cannot build it"):
        transformers: Any = import_module("transformers")
        safely = {"trust_remote_code": False, "local_files_only": True}
        if not pretrained:
            config = transformers.AutoConfig.from_pretrained(folder, **safely)
            model, missing = transformers.AutoModel.from_config(config, trust_remote_code=False), []
        else:
            model, info = transformers.AutoModel.from_pretrained(
                folder, **safely, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            )
            missing = sorted(info["missing_keys"])
    tower = next((name for name in IMAGE_TOWERS if isinstance(getattr(model, name, None), nn.Module)), "")
    if tower:
        notes.append(f"only its {tower} is used, which takes the images")
        missing = [name.removeprefix(f"{tower}.") for name in missing if name.startswith(f"{tower}.")]
        model = getattr(model, tower)
    elif getattr(model, "main_input_name", "pixel_values") != "pixel_values":
        raise UsageError(
            f"{path} is a {type(model).__name__}, which has no forward on images (it takes "
            f"{model.main_input_name}); name an image model."
        )
    if missing and all(name.startswith("pooler.") for name in missing):
        model.pooler, missing = None, []
        notes.append("its weights lack the pooling layer")
    if missing:
        raise DataError(
            f"The weights of {path} lack {len(missing)} tensors, such as {missing[0]}; give complete weights."
        )
    return model.eval(), notes


def _without_missing_pooler(encoder: HubEncoder, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Weights without a pooling layer are those of a model that was read without it."""
    has_own = any(name.startswith("pooler.") for name in encoder.model.state_dict())
    if has_own and not any(name.startswith(f"{prefix}model.pooler.") for name in state):
        encoder.model.pooler = None
        encoder._find_places(encoder._traced.images[-1])


@contextmanager
def _quiet(path: str, problem: str) -> Iterator[None]:
    """Errors become a sentence, and transformers reports nothing by itself."""
    if find_spec("transformers") is None:
        raise UsageError(f"{path} needs the library transformers; pip install 'fullrank[huggingface]'.")
    logging: Any = import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FullrankError:
        raise
    except (OSError, ImportError, *REFUSALS) as error:
        raise DataError(f"{path}: {problem} ({reason(error)}); check the folder or the name.") from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
