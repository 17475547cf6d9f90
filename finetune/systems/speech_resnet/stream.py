"""Which stream is heard."""

from data_pipeline.config import ConfigError
from data_pipeline.schema import FeatureSpec, Passport


def heard_stream(passport: Passport, name: str) -> FeatureSpec:
    """The spec of the stream `name`. Raises ConfigError where the shards have none of that name, or
    where its rows are not evenly spaced."""
    if name not in passport:
        raise ConfigError(
            f"the shards have no stream {name}; add it to them: python -m data_pipeline.extract "
            f"'add=[{name}]' output=FOLDER"
        )
    if passport[name].clock is not None:
        raise ConfigError(
            f"stream {name} has gaps in time (clock {passport[name].clock}), and convolutions over "
            "time want evenly spaced rows, such as those of fbank"
        )
    return passport[name]
