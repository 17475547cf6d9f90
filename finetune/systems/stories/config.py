"""What the system can be told."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

Model = Literal["svm", "logistic", "forest", "boosting"]
Weighting = Literal["duration", "uniform"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """`options` of a setting whose system is stories."""

    models: tuple[Model, ...] = ("svm", "logistic", "forest", "boosting")
    """Which are tried: support vector machine, logistic regression, random forest, gradient
    boosting. The parameters of each come from the inner search; `selection` says who chooses among
    them: dev, oracle (test itself), or with `last` the inner search too. The `step` of a row is the
    number of the chosen one in this list."""
    story: str = "recording"
    """What one is: the clips that have one `recording`, or one cell of another column of the clip
    table, and must have one label; or `clip`, each alone."""
    weighting: Weighting = "duration"
    """Of the clips in their story's mean: by their seconds, or all alike."""
    groups: Literal["speaker", "recording", "story"] = "speaker"
    """What the inner search never splits. `story` splits what one speaker says, and flatters."""
    inner_folds: Annotated[int, Field(ge=2)] = 4
    """Of the inner search, inside the training stories; fewer where groups or classes are few."""

    def __post_init__(self) -> None:
        if not self.models or len(set(self.models)) != len(self.models):
            raise ValueError(f"models {list(self.models)}; expected one or more, none twice")
