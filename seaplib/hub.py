"""What went wrong at the Hugging Face hub, in one line that says what to do."""


def problem(error: BaseException) -> str | None:
    """The line for an error of the hub's client, or of a library that called it (its causes are looked at too).

    None for an error that did not come from the hub.
    """
    from huggingface_hub import errors

    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    known = {  # a gated repository also counts as one that is not found, so it comes first
        errors.GatedRepoError: "access to it has to be granted: accept its licence on the hub, then run"
        " 'hf auth login' or set HF_TOKEN",
        errors.RepositoryNotFoundError: "neither a directory nor on the hub (if it is private: run 'hf auth login'"
        " or set HF_TOKEN)",
        (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, TimeoutError): "neither a"
        " directory nor in the local hub cache, and the hub cannot be reached",
    }
    return next((text for kind, text in known.items() if any(isinstance(one, kind) for one in chain)), None)
