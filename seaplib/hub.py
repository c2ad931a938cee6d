"""The Hugging Face hub and its cache: which files are there, and errors as a line that says what to do."""

import os
from pathlib import Path

PATIENCE = 10  # seconds to wait for an answer


def problem(error: BaseException) -> str | None:
    """The line for an error of the hub's client, also as the cause of another library's error.

    None for an error that did not come from the hub.
    """
    from huggingface_hub import errors

    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    known = {  # GatedRepoError is a RepositoryNotFoundError, so it comes first
        errors.GatedRepoError: "access to it has to be granted: accept its licence on the hub, then run"
        " 'hf auth login' or set HF_TOKEN",
        errors.RepositoryNotFoundError: "neither a directory nor on the hub (if it is private: run 'hf auth login'"
        " or set HF_TOKEN)",
        (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, TimeoutError): "neither a"
        " directory nor in the local hub cache, and the hub cannot be reached",
    }
    unreachable = list(known.values())[-1]
    said = next((text for kind, text in known.items() if any(isinstance(cause, kind) for cause in chain)), None)
    if said is None and any(kind.__name__ == "TransportError" for cause in chain for kind in type(cause).__mro__):
        return unreachable  # the client's HTTP library has classes of its own
    return said


def reason(error: BaseException) -> str:
    """Any error in one line: the hub's as :func:`problem` says it, others by their own words."""
    return problem(error) or " ".join((str(error) or type(error).__name__).split())[:200]


def offline() -> bool:
    """Whether the hub's client is told not to ask the hub (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def snapshot(name: str) -> Path | None:
    """The folder of the local hub cache with the current revision of a model, None if its config.json is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def has_data(path: str) -> bool:
    """Whether a part of a data set is in the local caches, downloaded or prepared."""
    from huggingface_hub import constants

    prepared = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    downloaded = Path(constants.HF_HUB_CACHE) / f"datasets--{path.replace('/', '--')}"
    return (prepared / path.replace("/", "___")).is_dir() or (downloaded / "snapshots").is_dir()


def files(name: str, kind: str = "model") -> set[str]:
    """Names of a model's files on the hub, or with ``kind="dataset"`` of a data set's.

    Raises the client's errors where the hub cannot be reached and where this user may not read the files.
    """
    from huggingface_hub import HfApi

    client = HfApi()
    listed = client.repo_info(name, repo_type=kind, timeout=PATIENCE).siblings or ()
    client.auth_check(name, repo_type=kind)  # a gated repository lists its files to anybody
    return {file.rfilename for file in listed}
