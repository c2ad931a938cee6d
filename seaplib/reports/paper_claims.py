"""What the paper claims, at most twenty sentences, with the paper's numbers and what would confirm each of them.

Numbers are from arXiv 2503.07605: abstract and §3.2, Tables 1 to 4 and 6, Figures 1, 3, 5 to 7. A claim about one
model or one device is tested only where that model is run.
"""

from dataclasses import dataclass

LLAMA_7B, LLAMA_13B = "Llama-2-7B", "Llama-2-13B"


@dataclass(frozen=True)
class PaperClaim:
    """A sentence as the paper or its readers would say it, and the number that decides it.

    The claim says that the number lies above ``null`` (``direction`` 1) or below (−1). ``paper`` is the paper's
    number; ``notebook`` measures ours; ``models`` are those that the claim is bound to, none for any model.
    """

    sentence: str
    paper: str
    notebook: str
    null: float = 0.0
    direction: int = 1
    unit: str = "points"
    models: tuple[str, ...] = ()


PAPER_CLAIMS = {
    "hidden-states-cluster": PaperClaim(
        "Hidden states cluster by task, more so in deeper layers",
        "Fig. 1",
        "01_hidden_state_clustering",
        unit="silhouette",
    ),
    "norms-tell-tasks-apart": PaperClaim(
        "MLP activation norms agree more within a task than between tasks",
        "Fig. 3",
        "02_norm_heatmaps",
        unit="rank correlation",
    ),
    "early-layers-matter-mmlu": PaperClaim(
        "Early layers are more sensitive to pruning than deep ones (MMLU)",
        "Fig. 5",
        "03_layer_remove_tests",
    ),
    "early-layers-matter-piqa": PaperClaim(
        "Early layers are more sensitive to pruning than deep ones (PIQA)",
        "Fig. 6",
        "03_layer_remove_tests",
    ),
    "retention-at-20": PaperClaim(
        "At 20% SEAP keeps 97.8% of the dense accuracy",
        "97.8% (97.7% by Table 1)",
        "06_zero_shot",
        null=97.8,
        unit="%",
    ),
    "beats-wanda-sp-at-20": PaperClaim(
        "At 20% SEAP is more accurate than Wanda-sp",
        "+4.51 points",
        "06_zero_shot",
    ),
    "beats-flap-at-20": PaperClaim(
        "At 20% SEAP is more accurate than FLAP",
        "+3.39 points",
        "06_zero_shot",
    ),
    "gain-over-wanda-sp-at-50": PaperClaim(
        "At 50% SEAP is over 20% better than Wanda-sp, relatively",
        "+23.2%",
        "06_zero_shot",
        null=20.0,
        unit="%",
    ),
    "gain-over-flap-at-50": PaperClaim(
        "At 50% SEAP is over 20% better than FLAP, relatively",
        "over 20% (+19.0% by Table 1)",
        "06_zero_shot",
        null=20.0,
        unit="%",
    ),
    "experts-beat-general-at-20": PaperClaim(
        "Experts beat the general mask at 20%",
        "+0.71 points",
        "06_zero_shot",
    ),
    "experts-beat-general-at-50": PaperClaim(
        "Experts beat the general mask at 50%",
        "+1.02 points",
        "06_zero_shot",
    ),
    "general-ahead-on-hellaswag": PaperClaim(
        "On HellaSwag the general mask is ahead of the expert at 20% (Llama-2-7B)",
        "+0.75 points",
        "06_zero_shot",
        models=(LLAMA_7B,),
    ),
    "general-ahead-on-boolq": PaperClaim(
        "On BoolQ the general mask is ahead of the expert at 50% (Llama-2-13B)",
        "+14.22 points",
        "06_zero_shot",
        models=(LLAMA_13B,),
    ),
    "logistic-beats-uniform-at-20": PaperClaim(
        "The logistic allocation beats the uniform one at 20% (SEAP-gen)",
        "+2.72 points",
        "07_sparsity_settings",
    ),
    "logistic-beats-uniform-at-50": PaperClaim(
        "The logistic allocation beats the uniform one at 50% (SEAP-gen)",
        "+1.86 points",
        "07_sparsity_settings",
    ),
    "logistic-beats-adaptive-at-50": PaperClaim(
        "The logistic allocation beats FLAP's adaptive one at 50% (FLAP)",
        "+0.66 points",
        "07_sparsity_settings",
    ),
    "perplexity-higher-at-20": PaperClaim(
        "At 20% SEAP-gen costs more perplexity than FLAP, slightly",
        "Fig. 7",
        "08_perplexity",
        null=1.0,
        unit="×",
    ),
    "classifier-accuracy": PaperClaim(
        "A linear layer on layer-0 embeddings names the task of 93% of prompts",
        "93%",
        "05_task_classifier",
        null=93.0,
        unit="%",
    ),
    "speed-at-50": PaperClaim(
        "At 50% SEAP-gen generates 1.48 times as fast as the dense model (Llama-2-7B, H800)",
        "×1.48",
        "09_inference_speed",
        null=1.48,
        unit="×",
        models=(LLAMA_7B,),
    ),
    "pruning-takes-minutes": PaperClaim(
        "Pruning takes at most 10 minutes (Llama-2-7B, H800)",
        "5 to 10 minutes",
        "09_inference_speed",
        null=10.0,
        direction=-1,
        unit="minutes",
        models=(LLAMA_7B,),
    ),
}
