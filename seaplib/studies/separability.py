"""How well tasks separate: in pooled hidden states (Fig. 1) and in activation norms (Fig. 3).

Pictures suggest; these numbers decide. Every prompt has a silhouette (how much nearer it is to its
own task than to the next) and is right or wrong under a nearest-neighbour vote; intervals are over
prompts. Norm profiles of two random halves of a task should agree, those of different tasks less.
"""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file
from scipy.stats import rankdata, spearmanr, ttest_1samp
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from statsmodels.stats.proportion import proportion_confint
from tqdm.auto import tqdm

from ..activations.hidden_states import HiddenStates
from ..activations.statistics import collect
from ..evaluation import bootstrap, comparison
from ..reports import claims
from ..settings import Calibration
from ..texts.corpora import Corpus

MEASURES = ("silhouette", "knn_accuracy")


def prompt_values(
    states: HiddenStates, neighbours: int = 10, folds: int = 5, seed: int = 0, progress: bool = True
) -> pd.DataFrame:
    """Silhouette and nearest-neighbour success of every prompt: layer, measure, prompt, task, value, influence.

    Euclidean distances of standardised states. Silhouette s = (b − a)/max(a, b), with a the mean
    distance to prompts of the same task and b to prompts of the nearest other task: −1 to 1.
    ``knn_accuracy`` is 1 where the vote of the ``neighbours`` nearest prompts of the other folds
    (stratified cross-validation) is the prompt's task, else 0.

    ``influence`` is the prompt's jackknife pseudo-value n·s̄ − (n−1)·s̄₋ᵢ of the mean silhouette: a
    prompt counts in its neighbours' silhouettes too, so the spread of ``value`` alone would give
    intervals that are too narrow. The influence on the accuracy is the value itself.
    """
    labels, counts = states.labels, np.unique(states.labels, return_counts=True)[1]
    if len(counts) < 2 or counts.min() < folds:
        raise ValueError(f"separability needs two tasks with at least {folds} prompts each, got {counts.tolist()}")
    neighbours = min(neighbours, len(labels) - math.ceil(len(labels) / folds))
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    vote = KNeighborsClassifier(neighbours, metric="precomputed")
    frames = []
    for layer in tqdm(states.layers, desc="separability", unit="layer", leave=False, disable=not progress):
        distances = pairwise_distances(states.standardised(layer))
        right = (cross_val_predict(vote, distances, labels, cv=splits) == labels).astype(float)
        values = {"silhouette": _silhouettes(distances, labels), "knn_accuracy": (right, right)}
        for measure, (value, influence) in values.items():
            prompts = {"prompt": range(len(labels)), "task": labels, "value": value, "influence": influence}
            frames.append(pd.DataFrame({"layer": layer, "measure": measure} | prompts))
    return pd.concat(frames, ignore_index=True)


def _silhouettes(distances: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Silhouette of every prompt, and the jackknife pseudo-values of their mean; both [n]."""
    n, task = len(labels), np.unique(labels, return_inverse=True)[1]
    counts, rows = np.bincount(task), np.arange(n)
    sums = distances @ np.eye(len(counts))[task]  # [n, tasks]: of the distances to each task's prompts

    def silhouettes(sums, counts):
        own = sums[rows, task] / (counts[task] - 1)
        others = sums / counts
        others[rows, task] = np.inf
        nearest = others.min(axis=1)
        larger = np.maximum(own, nearest)
        return np.divide(nearest - own, larger, out=np.zeros(n), where=larger > 0)

    values = silhouettes(sums, counts)
    without = np.empty(n)  # entry i: the mean silhouette of all prompts but i
    for i in rows:
        fewer, left = sums.copy(), counts.copy()
        fewer[:, task[i]] -= distances[:, i]
        left[task[i]] -= 1
        without[i] = np.delete(silhouettes(fewer, left), i).mean()
    return values, n * values.mean() - (n - 1) * without


def by_layer(values: HiddenStates | pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Mean of each measure by layer with its 95% interval: layer, measure, value, low, high, chance, n.

    Takes states, or the frame of ``prompt_values``. The silhouette's interval is a bootstrap
    over prompts within tasks (of their influences), the accuracy's Wilson's. ``chance``: 0, and the
    largest task's share.
    """
    values = prompt_values(values) if isinstance(values, HiddenStates) else values
    rows = []
    for measure in MEASURES:
        table, influences, tasks = _by_prompt(values, measure)
        means, n = table.mean(), len(table)
        if measure == "silhouette":
            low, high = means.to_numpy() + bootstrap.stratified_interval(influences, tasks, bootstrap.DRAWS, seed)
            chance = 0.0
        else:
            low, high = proportion_confint(table.sum().values, n, method="wilson")
            chance = pd.Series(tasks).value_counts(normalize=True).max()
        row = {"layer": means.index, "measure": measure, "value": means.values, "low": low, "high": high}
        rows.append(pd.DataFrame(row | {"chance": chance, "n": n}))
    return pd.concat(rows, ignore_index=True)


def trend(values: HiddenStates | pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Does separation grow with depth? Mean of the deeper half of the layers minus that of the shallower.

    A row per measure: shallower, deeper, value (their difference), its 95% bootstrap interval
    over prompts within tasks (all layers of a prompt are drawn together), a two-sided ``p_value``
    (t-test of the prompts' influences), and Spearman's rank correlation of layer and mean. With an
    odd number of layers the middle layer counts for neither half.
    """
    values = prompt_values(values) if isinstance(values, HiddenStates) else values
    rows = []
    for measure in MEASURES:
        table, influences, tasks = _by_prompt(values, measure)
        half = table.shape[1] // 2
        shallower, deeper = table.iloc[:, :half].mean(axis=None), table.iloc[:, -half:].mean(axis=None)
        difference = influences[:, -half:].mean(axis=1) - influences[:, :half].mean(axis=1)
        around = bootstrap.stratified_interval(difference[:, None], tasks, bootstrap.DRAWS, seed)
        low, high = deeper - shallower + around[:, 0]
        row = {"measure": measure, "shallower": shallower, "deeper": deeper, "value": deeper - shallower}
        row |= {"low": low, "high": high, "p_value": ttest_1samp(difference, 0).pvalue if difference.std() else 1.0}
        rows.append(row | {"spearman": spearmanr(table.columns, table.mean()).statistic})
    return pd.DataFrame(rows)


def depth_claims(values: pd.DataFrame, model: str, seed: int = 0) -> list[dict]:
    """What Figure 1 says of ``prompt_values``'s frame, tested: the deeper half of the layers, and the last layer.

    p-values are those of t-tests of the prompts' influences, and of the exact binomial test for the last layer's
    neighbours, whose null value is the largest task's share. ``model`` as in ``claims.of_paper``.
    """
    deeper = trend(values, seed).set_index("measure")
    last = values[values["layer"] == values["layer"].max()]
    silhouettes, neighbours = (last[last["measure"] == measure] for measure in MEASURES)
    end = by_layer(last, seed).set_index("measure").loc["silhouette"]
    largest = float(round(100 * neighbours["task"].value_counts(normalize=True).max(), 2))
    drawn, found = {"n": len(neighbours), "where": "separability_by_layer"}, deeper.loc["knn_accuracy"]
    row = deeper.loc["silhouette"]
    return [
        claims.of_paper(
            "hidden-states-cluster", *row[["value", "low", "high"]], p_value=row["p_value"], model=model, **drawn
        ),
        claims.claim(
            "Neighbours tell the task more often in deeper layers than in shallower ones",
            *(100 * found[["value", "low", "high"]]),
            unit="points",
            p_value=found["p_value"],
            **drawn,
        ),
        claims.claim(
            "Hidden states cluster by task after the last layer",
            *end[["value", "low", "high"]],
            unit="silhouette",
            p_value=ttest_1samp(silhouettes["influence"], 0).pvalue,
            **drawn,
        ),
        claims.claim(
            "Neighbours tell the task more often than chance after the last layer",
            **comparison.percentage(neighbours["value"], largest),
            null=largest,
            unit="%",
            where="separability_by_layer",
        ),
    ]


def _by_prompt(values: pd.DataFrame, measure: str) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """A measure as prompts × layers, its influences as an array of that shape, and the prompts' tasks."""
    wide = values[values["measure"] == measure].pivot(index="prompt", columns="layer")
    return wide["value"], wide["influence"].to_numpy(), wide["task"].iloc[:, 0].to_numpy()


@dataclass(frozen=True)
class NormProfiles:
    """Eq. 5's norms (1/n)·sqrt(Σh²) of two random halves of every task, per module, layer and dimension.

    ``norms[module][task, half]`` is float32 [layers, dims], half 0 or 1; each is over ``prompts``
    prompts, whose tokens were averaged first.
    """

    norms: dict[str, dict[tuple[str, int], np.ndarray]]
    prompts: int
    provenance: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        profiles = next(iter(self.norms.values()))
        return f"NormProfiles({', '.join(self.norms)}: {len(profiles) // 2} tasks, 2 × {self.prompts} prompts each)"

    def save(self, directory: Path) -> None:
        keys = [(module, *key) for module, profiles in self.norms.items() for key in profiles]
        arrays = {str(i): self.norms[module][task, half] for i, (module, task, half) in enumerate(keys)}
        save_file(arrays, Path(directory) / "norms.safetensors")
        about = {"keys": keys, "prompts": self.prompts, "provenance": self.provenance}
        (Path(directory) / "norms.json").write_text(json.dumps(about), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> "NormProfiles":
        about = json.loads((Path(directory) / "norms.json").read_text(encoding="utf-8"))
        arrays, norms = load_file(Path(directory) / "norms.safetensors"), {}
        for i, (module, task, half) in enumerate(about["keys"]):
            norms.setdefault(module, {})[task, half] = arrays[str(i)]
        return cls(norms, about["prompts"], about["provenance"])


def norm_profiles(
    model, tokenizer, corpora: Mapping[str, Corpus], calibration: Calibration | None = None, progress: bool = True
) -> NormProfiles:
    """Norms of two random halves of every task's corpus, all of the same number of prompts.

    The number is half of the smallest corpus, since the norm of Eq. 5 falls with n.
    ``calibration`` gives the seed of the split, the length limit and the batch size.
    """
    calibration = calibration or Calibration()
    n = min(map(len, corpora.values())) // 2
    if n < 1:
        raise ValueError("a half of the smallest corpus is empty: every task needs at least two texts")
    settings = replace(calibration, samples=n, pooling="prompt")
    norms = {}
    for task, corpus in tqdm(corpora.items(), desc="norm profiles", unit="task", leave=False, disable=not progress):
        order = np.random.default_rng(calibration.seed).permutation(len(corpus))
        for half, rows in enumerate((order[:n], order[n : 2 * n])):
            texts, ids = (tuple(column[i] for i in rows) for column in (corpus.texts, corpus.ids))
            part = replace(corpus, texts=texts, ids=ids)
            stats = collect(model, tokenizer, part, settings, progress=False)
            for module, norm in stats.norms().items():
                norms.setdefault(module, {})[task, half] = norm.numpy().astype(np.float32)
    provenance = {
        "model": stats.provenance["model"],
        "corpora": {task: corpus.fingerprint for task, corpus in corpora.items()},
        "calibration": settings.as_dict(),
    }
    return NormProfiles(norms, n, provenance)


def norm_correlations(
    profiles: Mapping[tuple[str, int], np.ndarray],
    method: str = "spearman",
    per_layer: bool = True,
    permutations: int = 10_000,
    resamples: int = bootstrap.DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlation over dimensions of half 0 and half 1: of the same task (within) and of two tasks (between).

    ``profiles[task, half]`` is [layers, dims], of a single module. Columns layer, within, between, value (within −
    between), low, high, p_value, tasks; a row per layer, or a single row for the mean over layers.
    ``low``-``high``: 95% bootstrap interval over tasks. The p-value is one-sided, of a permutation test that gives
    the second halves to the tasks at random (all T! assignments where T! is at most ``permutations``); the null is
    that a half says nothing about its task. ``method`` is ``spearman`` (ranks; a few massive dimensions cannot
    decide) or ``pearson``.
    """
    if method not in ("spearman", "pearson"):
        raise ValueError(f"method is 'spearman' or 'pearson', got {method!r}")
    tasks = list(dict.fromkeys(task for task, _ in profiles))
    count = len(tasks)
    if count < 2 or {(task, half) for task in tasks for half in (0, 1)} != set(profiles):
        raise ValueError("norm correlations need both halves (0, 1) of at least two tasks")
    halves = (np.stack([np.asarray(profiles[task, half], np.float64) for task in tasks], axis=1) for half in (0, 1))
    matrices = np.stack([_correlate(a, b, method) for a, b in zip(*halves, strict=True)])  # [layers, tasks, tasks]
    rng = np.random.default_rng(seed)
    exact = math.factorial(count) <= permutations
    if exact:
        assignments = np.array(list(itertools.permutations(range(count))))
    else:
        assignments = np.stack([rng.permutation(count) for _ in range(permutations)])
    drawn = bootstrap.places(count, resamples, rng)
    rows = []
    for layer, matrix in enumerate(matrices) if per_layer else [("all", matrices.mean(axis=0))]:
        within, between = np.diag(matrix), between_tasks(matrix)
        low, high = bootstrap.interval((within - between)[drawn].mean(axis=1))
        # within − between rises with the mean on the (re-assigned) diagonal: the sum of all is fixed
        reached = (matrix[np.arange(count), assignments].mean(axis=1) >= within.mean() - 1e-12).sum()
        p_value = reached / len(assignments) if exact else (1 + reached) / (1 + len(assignments))
        row = {"layer": layer, "within": within.mean(), "between": between.mean()}
        row |= {"value": within.mean() - between.mean(), "low": low, "high": high, "p_value": p_value}
        rows.append(row | {"tasks": count})
    return pd.DataFrame(rows)


def shared_strongest(
    profiles: Mapping[tuple[str, int], np.ndarray], share: float = 0.1
) -> tuple[list[str], np.ndarray]:
    """Tasks, and which share of a task's strongest dimensions (half 0) is among another's (half 1): [tasks, tasks].

    ``profiles`` as in :func:`norm_correlations`. Strongest is the share ``share`` of a layer's dimensions, and the
    mean is over layers; a task's own two halves stand on the diagonal. Independent choices would share ``share``.
    """
    names = list(dict.fromkeys(task for task, _ in profiles))
    count = max(1, round(share * next(iter(profiles.values())).shape[1]))
    top = {key: norm >= np.sort(norm, axis=1)[:, -count:][:, :1] for key, norm in profiles.items()}
    first, second = (np.stack([top[name, half] for name in names]).astype(float) for half in (0, 1))
    return names, np.einsum("tld,uld->tu", first, second) / (first.shape[1] * count)


def smallest_p(tasks: int, permutations: int) -> float:
    """The smallest p-value that the permutation test of :func:`norm_correlations` can give."""
    ways = math.factorial(tasks)
    return 1 / ways if ways <= permutations else 1 / (1 + permutations)


def norm_claims(
    profiles: NormProfiles, overlaps: Mapping[str, np.ndarray], model: str, permutations: int, seed: int = 0
) -> list[dict]:
    """What Figure 3 says, tested: norms agree more within a task, and tasks use separate dimensions.

    ``overlaps`` maps modules to :func:`shared_strongest`'s arrays. Intervals are bootstraps over tasks; the shares
    have no test. ``model`` as in ``claims.of_paper``.
    """
    rows = []
    for module, norms in profiles.norms.items():
        found = norm_correlations(norms, per_layer=False, permutations=permutations, seed=seed).iloc[0]
        about = {"n": found["tasks"], "p_value": found["p_value"], "where": "norm_correlations"}
        about["p_floor"] = smallest_p(found["tasks"], permutations)
        estimate = found[["value", "low", "high"]]
        if module == "mlp":
            rows.append(claims.of_paper("norms-tell-tasks-apart", *estimate, model=model, **about))
        else:
            text = "Attention activation norms agree more within a task than between tasks"
            named = {"name": "attention-norms-tell-tasks-apart", "unit": "rank correlation"}
            rows.append(claims.claim(text, *estimate, **named, **about))
    rng = np.random.default_rng(seed)
    for module, matrix in overlaps.items():
        between = between_tasks(matrix)
        low, high = bootstrap.mean_interval(between, 5000, rng)
        name = {"attention": "attention", "mlp": "MLP"}[module]
        text = f"Two tasks have less than half of their strongest dimensions in common ({name})"
        about = {"n": len(between), "unit": "share", "where": "fig3_norm_heatmaps"}
        rows.append(claims.claim(text, between.mean(), low, high, null=0.5, direction=-1, **about))
    return rows


def between_tasks(matrix: np.ndarray) -> np.ndarray:
    """Of each task's row and column in ``matrix`` [tasks, tasks], the mean over the other tasks: [tasks]."""
    return (matrix.sum(0) + matrix.sum(1) - 2 * np.diag(matrix)) / (2 * (len(matrix) - 1))


def _correlate(a: np.ndarray, b: np.ndarray, method: str) -> np.ndarray:
    """Correlations over dimensions of every row of ``a`` with every row of ``b``: [tasks, tasks]."""
    if method == "spearman":
        a, b = rankdata(a, axis=1), rankdata(b, axis=1)
    return np.corrcoef(a, b)[: len(a), len(a) :]
