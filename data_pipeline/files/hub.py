"""Folders on the Hugging Face hub, in one way with folders on this machine."""

import re
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
TRAINING_STATE = "state/*"
"""What a checkpoint goes on from, and no reader needs."""


class HubError(UserError):
    """Neither a folder here nor one on the hub."""


def local_folder(name: str | Path, expected: str, **settings: Any) -> Path:
    """`name` itself where it is a folder, else that of OWNER/NAME on the hub, in the hub's cache.

    expected: what the folder should be, for the message. settings: those of
    huggingface_hub.snapshot_download, such as revision or token.

    Raises HubError where it is no folder and no such name, the hub knows none of that name, or
    cannot be reached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise HubError(f"{name} is a file; expected {expected}, or OWNER/NAME on the hub")
    if not HUB_NAME.fullmatch(str(name)):
        raise HubError(f"no folder {name}; expected {expected}, or OWNER/NAME on the hub")
    from huggingface_hub import errors, snapshot_download  # which takes long to load

    try:
        return Path(snapshot_download(str(name), ignore_patterns=[TRAINING_STATE], **settings))
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"{name} on the hub has no revision {settings.get('revision')}; those that it has are "
            f"at https://huggingface.co/{name}/tree/main"
        ) from error
    except errors.GatedRepoError as error:
        raise HubError(
            f"{name} on the hub wants its terms agreed to: https://huggingface.co/{name}, and then "
            "hf auth login"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise HubError(
            f"no folder {name} here, and nothing of that name on the hub, or it is private; check "
            f"the spelling, or name {expected}, or hf auth login"
        ) from error
    except (OSError, errors.HTTPError) as error:
        why = str(error.__cause__ or error).partition("\n")[0]
        raise HubError(
            f"no folder {name} here, and the hub did not give it ({why}); name {expected}, or "
            f"fetch it where the hub is in reach: hf download {name} --local-dir FOLDER"
        ) from error
