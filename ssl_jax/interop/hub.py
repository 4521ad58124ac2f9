"""A folder to the Hugging Face Hub."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write (huggingface.co/settings/tokens)"


def check(repo: str) -> None:
    """Refuse what cannot be sent, before anything is computed or written."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ValueError(f"--push-to {repo!r} is no repository of the Hub; write OWNER/NAME")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ValueError("--push-to needs huggingface_hub, which is not installed; pip install 'ssl_jax[hub]'")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise ValueError(
                f"--push-to {repo}: {name}={os.environ[name]} forbids it; unset it, or leave --push-to out"
            )
    from huggingface_hub import get_token

    if not get_token():
        raise ValueError(f"--push-to {repo} needs a token of the Hub, and there is none; {LOGIN}")


def push(folder: Path, repo: str, *, private: bool = False, message: str = "Add model", api: Any = None) -> str:
    """Make the repository where there is none and send the folder as one commit; returns its address.

    Args:
      api: a ``huggingface_hub.HfApi``; None: one that takes its token from the environment.

    Raises:
      OSError: the Hub refused it, or cannot be reached.
    """
    check(repo)
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message=message)
    except Exception as error:  # of many kinds, some of them of its HTTP client
        lines = str(error).splitlines() or [type(error).__name__]
        refused = getattr(getattr(error, "response", None), "status_code", None) in (401, 403)
        what = f"; {LOGIN}" if refused else ""
        raise OSError(
            f"{folder} was not sent to {repo}: {lines[0]}{what}; the folder is whole, and the same command sends it"
        ) from error
    return f"https://huggingface.co/{repo}"
