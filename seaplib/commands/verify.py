"""``verify``: products against the manifest, and a sample of them made again from nothing."""

from ..runner import run as runner
from .compare import told
from .text import table


def add(subparsers) -> None:
    parser = subparsers.add_parser("verify", help="check products against the manifest, and make a sample of them anew")
    parser.add_argument("--profile", metavar="P", help="a profile of papermill_runs.yaml (default: its first)")
    parser.add_argument("--only", nargs="+", metavar="NN", help="make these notebooks' products anew")
    parser.add_argument("--sample", type=int, metavar="N", default=2, help="how many of the quickest else (default: 2)")
    parser.set_defaults(command=run)


def run(options) -> int:
    from ..runner import verify  # with pandas beneath

    ledger, chosen, asked = runner.prepare(options.profile, options.only, None)
    wrong = verify.against_manifest(ledger)
    count = sum(len(notebook.files) for notebook in ledger.plan.notebooks)
    if wrong:
        print(table(wrong, ["product", "wrong"]))
    print(f"{count} products are declared; {len(wrong)} products or files are not what the manifest says.")
    names = [notebook.name for notebook in chosen if notebook.name in asked] if options.only else None
    names = verify.sample(ledger, options.sample) if names is None else names
    if not names:
        return int(bool(wrong))
    print(f"Made anew, with an empty store: {', '.join(names)}", flush=True)
    found = verify.recomputed(ledger, names)
    print(told(found, "the profile's own"))
    differs = any(compared.differs for compared in found.tables) or bool(found.only_committed)
    return int(bool(wrong) or differs)
