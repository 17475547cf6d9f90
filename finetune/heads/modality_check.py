"""M3ER's modality check and proxy features (Mittal et al., AAAI 2020, arXiv:1911.05659, section 3).

Check: two streams of a clip, projected to where the training clips' streams are most correlated
(CCA), are correlated with each other where both mean the same. A stream that agrees with no other
one of its clip, by less than a threshold, is ineffective. Where no two agree, nothing tells which
one is to blame, and all are kept.

Proxy: what would a stream f_i have been, where only f_j can be trusted? f_j is written as a sum of
its nearest bases, f_j = sum_k a_k v_k, and the bases' own other streams give p_i = sum_k a_k w_k.

All on means over time. N clips, S streams, C width of a stream, D directions, K bases.
"""

import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from finetune.clips.labelled import DatasetError

Means = Mapping[str, torch.Tensor]
RIDGE = 1e-2
"""Of the squared length of a basis: what keeps sums of nearly equal bases small."""
SAME = 1e-2
"""Of the length of a basis: what is nearer to it is the clip that it was made of."""


def in_float32(tensor: torch.Tensor) -> torch.autocast:
    """Autocast off, where `tensor` lies: solvers know no bfloat16, and bases are not rounded."""
    return torch.autocast(tensor.device.type, enabled=False)


class Agreement(nn.Module):
    """How well each two streams of a clip agree, -1 to 1."""

    def __init__(self, widths: Mapping[str, int], dimensions: int) -> None:
        super().__init__()
        self.pairs = list(combinations(widths, 2))
        self.dimensions = {pair: min(dimensions, *map(widths.get, pair)) for pair in self.pairs}
        for pair in self.pairs:
            self.register_buffer(self._used(pair), torch.zeros(self.dimensions[pair]))
            for name in pair:
                shape = (widths[name], self.dimensions[pair])
                self.register_buffer(self._map(pair, name), torch.zeros(shape))
                self.register_buffer(self._shift(pair, name), torch.zeros(shape[1]))

    def fit(self, means: Mapping[str, np.ndarray], has: Mapping[str, np.ndarray]) -> None:
        """Find the directions by training clips [K, C]. Raises DatasetError for too few clips, or
        for a stream that is the same in all of them."""
        for pair in self.pairs:
            both_K = has[pair[0]] & has[pair[1]]
            num_directions = self.dimensions[pair]
            if both_K.sum() <= num_directions:
                raise DatasetError(
                    f"the modality check looks for {num_directions} directions in which "
                    f"{' and '.join(pair)} go together, and {both_K.sum()} training clips have "
                    "both; expected more clips than directions: set options.dimensions lower, or "
                    "options.check=false"
                )
            both = [means[name][both_K] for name in pair]
            for name, (map_CD, shift_D) in zip(
                pair, canonical(both, pair, num_directions), strict=True
            ):
                found = len(shift_D)
                getattr(self, self._map(pair, name))[:, :found] = torch.from_numpy(map_CD)
                getattr(self, self._shift(pair, name))[:found] = torch.from_numpy(shift_D)
                getattr(self, self._used(pair))[:found] = 1

    def forward(self, means: Means, pair: tuple[str, str]) -> torch.Tensor:
        """[N], the correlation of the two projections of each clip, in float32."""
        used_D = getattr(self, self._used(pair))
        with in_float32(used_D):
            first_ND, second_ND = (
                means[name].float() @ getattr(self, self._map(pair, name))
                + getattr(self, self._shift(pair, name))
                for name in pair
            )
            count = used_D.sum().clamp(min=1)
            first_ND = (first_ND - first_ND.sum(1, keepdim=True) / count) * used_D
            second_ND = (second_ND - second_ND.sum(1, keepdim=True) / count) * used_D
            return nn.functional.cosine_similarity(first_ND, second_ND, dim=1)

    def valid(self, means: Means, has: Means, threshold: float) -> dict[str, torch.Tensor]:
        """Stream to [N] bool: there, and in agreement with another one."""
        agrees = {name: torch.zeros_like(has_N) for name, has_N in has.items()}
        for pair in self.pairs:
            together_N = has[pair[0]] & has[pair[1]] & (self(means, pair) >= threshold)
            for name in pair:
                agrees[name] = agrees[name] | together_N
        nobody_N = ~torch.stack(list(agrees.values())).any(0)
        return {name: has[name] & (agrees[name] | nobody_N) for name in has}

    @staticmethod
    def _used(pair: tuple[str, str]) -> str:
        return f"{'_and_'.join(pair)}_used"

    @staticmethod
    def _map(pair: tuple[str, str], name: str) -> str:
        return f"{'_and_'.join(pair)}_{name}_map"

    @staticmethod
    def _shift(pair: tuple[str, str], name: str) -> str:
        return f"{'_and_'.join(pair)}_{name}_shift"


def canonical(
    both: Sequence[np.ndarray], pair: tuple[str, str], num_directions: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each of the two the map [C, D] and shift [D] to its canonical variates, of deviation 1.

    D principal components first: CCA on all of the width finds perfect correlations by chance. D is
    `num_directions`, or less where the clips span fewer.
    """
    for name, mean_KC in zip(pair, both, strict=True):
        rank = np.linalg.matrix_rank(mean_KC - mean_KC.mean(0), tol=1e-6 * len(mean_KC))
        if not rank:
            raise DatasetError(
                f"stream {name} is the same in all {len(mean_KC)} training clips, so nothing "
                "agrees with it; leave it out of data.modalities, or set options.check=false"
            )
        num_directions = min(num_directions, rank)
    reduced = [PCA(num_directions, whiten=True, random_state=0).fit(KC) for KC in both]
    found = CCA(num_directions, max_iter=2000)
    parts = [pca.transform(mean_KC) for pca, mean_KC in zip(reduced, both, strict=True)]
    with warnings.catch_warnings():
        # Directions beyond the common ones turn about; any of them will do.
        warnings.simplefilter("ignore", ConvergenceWarning)
        variates = found.fit(*parts).transform(*parts)
    maps = []
    for place, (pca, variate_KD) in enumerate(zip(reduced, variates, strict=True)):

        def project(mean_KC: np.ndarray, place: int = place, pca: PCA = pca) -> np.ndarray:
            rows = pca.transform(mean_KC)
            return found.transform(rows, rows)[place]

        shift_D = project(np.zeros((1, both[place].shape[1])))
        map_CD = project(np.eye(both[place].shape[1])) - shift_D
        deviation_D = np.maximum(variate_KD.std(0), 1e-8)
        maps.append((map_CD / deviation_D, shift_D[0] / deviation_D))
    return maps


class Proxies(nn.Module):
    """Bases from training clips, and what they say of a stream that is not to be trusted."""

    def __init__(self, widths: Mapping[str, int], num_bases: int, num_neighbours: int) -> None:
        super().__init__()
        self.names = list(widths)
        self.num_neighbours = min(num_neighbours, num_bases)
        for name, width in widths.items():
            self.register_buffer(f"{name}_bases", torch.zeros(num_bases, width))
            self.register_buffer(f"{name}_there", torch.zeros(num_bases, dtype=torch.bool))

    def fit(self, means: Mapping[str, np.ndarray], has: Mapping[str, np.ndarray]) -> None:
        """Take training clips [K, C], evenly over all, as the bases."""
        num_clips = len(has[self.names[0]])
        num_bases = len(getattr(self, f"{self.names[0]}_bases"))
        taken = np.unique(np.linspace(0, num_clips - 1, min(num_bases, num_clips)).round())
        taken = taken.astype(np.int64)
        for name in self.names:
            bases_KC, there_K = getattr(self, f"{name}_bases"), getattr(self, f"{name}_there")
            bases_KC[: len(taken)] = torch.from_numpy(means[name][taken])
            there_K[: len(taken)] = torch.from_numpy(has[name][taken])

    def forward(self, means: Means, valid: Means, wanted: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The proxy [N, C] of the stream `wanted`, mean of those that each other valid stream
        gives, and which clips have one [N]."""
        others = [name for name in self.names if name != wanted]
        with in_float32(getattr(self, f"{wanted}_bases")):
            proxies = [self._proxy(means[name], name, wanted) for name in others]
        proxies_NOC = torch.stack(proxies, 1)
        weight_NO = torch.stack([valid[name] for name in others], 1).to(proxies_NOC.dtype)
        sum_NC = (proxies_NOC * weight_NO[..., None]).sum(1)
        return sum_NC / weight_NO.sum(1, keepdim=True).clamp(min=1), weight_NO.any(1)

    def _proxy(self, mean_NC: torch.Tensor, given: str, wanted: str) -> torch.Tensor:
        both_K = getattr(self, f"{given}_there") & getattr(self, f"{wanted}_there")
        given_KC = getattr(self, f"{given}_bases")
        distance_NK = torch.cdist(mean_NC.float(), given_KC).masked_fill(~both_K, torch.inf)
        if self.training:  # a clip is no basis of its own: of those judged none is one
            own_NK = distance_NK <= SAME * given_KC.norm(dim=-1)
            distance_NK = distance_NK.masked_fill(own_NK, torch.inf)
        distance_NJ, nearest_NJ = distance_NK.topk(self.num_neighbours, largest=False)
        real_NJ1 = distance_NJ.isfinite()[..., None]
        bases_NJC = given_KC[nearest_NJ] * real_NJ1
        gram_NJJ = bases_NJC @ bases_NJC.mT
        ridge_N11 = RIDGE * gram_NJJ.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-8)[:, None, None]
        eye_JJ = torch.eye(self.num_neighbours, device=mean_NC.device)
        sums_NJ1 = bases_NJC @ mean_NC.float()[..., None]
        # Positive definite by the ridge, so nothing is to be asked of the device about it.
        weights_NJ1, _ = torch.linalg.solve_ex(gram_NJJ + ridge_N11 * eye_JJ, sums_NJ1)
        theirs_NJC = getattr(self, f"{wanted}_bases")[nearest_NJ] * real_NJ1
        return (weights_NJ1 * theirs_NJC).sum(1)
