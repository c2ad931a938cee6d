"""Bad inputs and what each gets, tried as a user would meet them: one clear error of ours, early.

    python tests/bad_inputs.py            try all, write tests/bad_inputs.md
    python tests/bad_inputs.py --check    try all, write nothing; exit status 1 if any is accepted or fails inside

An input is an expression of Python, which is also its description. It passes if it raises one of the exceptions that
the package uses, in a line of this package and not below it, with one line that is no longer than a line can be read.
"""

import argparse
import contextlib
import io
import json
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

import seaplib
from seaplib import experts, models
from seaplib.__main__ import main as command
from seaplib.evaluation import comparison, generation, perplexity
from seaplib.experts import variants as fleets
from seaplib.pruning import allocation, masks, methods
from seaplib.pruning.baselines import authors_code, flap, griffin, shortgpt, two_ssp, wanda
from seaplib.runner import run as runner
from seaplib.texts import tasks

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "bad_inputs.md"
OURS = (ValueError, TypeError, FileNotFoundError)  # with their subclasses: PlanError, ModelError, UnreachableSparsity …
LONGEST = 600  # characters of a message

#: area → inputs
INPUTS: dict[str, list[str]] = {
    "settings": [
        *(f"seaplib.Calibration({wrong})" for wrong in (
            "samples=0", "samples=-1", "samples=2.5", "samples=True", "samples='8'", "samples=None", "seed=-1",
            "seed=1.5", "seed=None", "max_length=0", "max_length=1", "max_length='long'", "pooling='tokens'",
            "pooling=None", "bos='no'", "bos=1", "batch_tokens=0", "batch_tokens=1e4", "estimator='welford'",
            "estimator='flap', pooling='prompt'", "samples=float('nan')", "samples=[8]",
        )),
        *(f"seaplib.Evaluation({wrong})" for wrong in (
            "items=0", "items=-5", "items=2.5", "items='all'", "items=True", "item_seed=-1", "batch_tokens=0",
            "max_length=0", "max_length=True", "bos='no'", "chat_template='yes'", "chat_template=None", "workers=0",
            "workers=1.5",
        )),
        *(f"seaplib.Pruning({wrong})" for wrong in (
            "sparsity=1.0", "sparsity=-0.1", "sparsity=20", "sparsity=float('nan')", "sparsity='half'", "sparsity=True",
            "score='s_f'", "allocation='linear'", "x0=float('inf')", "k=1e9", "k='1'", "protect_first=-1",
            "protect_last=1.5", "protect_last=None", "budget='flor'", "kv_unit='groups'", "mode='cut'",
            "compensation='bias'", "round_to=0", "round_to=1.5",
        )),
        *(f"seaplib.Routing({wrong})" for wrong in (
            "per_task=0", "per_task='all'", "seed=-1", "wording='prompt'", "coverage=0", "coverage=1.1",
            "coverage=float('nan')", "coverage='95%'",
        )),
    ],
    "texts": [
        "seaplib.corpus('mini_pica')",
        "seaplib.corpus('')",
        "seaplib.corpus('mini_piqa', samples=0)",
        "seaplib.corpus('mini_piqa', samples=2.5)",
        "seaplib.corpus('mini_piqa', samples=True)",
        "seaplib.corpus('mini_piqa', seed=-1)",
        "seaplib.corpus('mini_piqa', seed='0')",
        "seaplib.corpus(folder / 'absent.parquet')",
        "seaplib.corpus('absent.csv')",
        "seaplib.corpus(folder / 'empty.parquet')",
        "seaplib.corpus(folder / 'half.parquet')",
        "seaplib.corpus(folder / 'no_rows.parquet')",
        "seaplib.corpus(folder / 'one_column.parquet')",
        "seaplib.corpus(folder / 'lists.parquet')",
        "seaplib.corpus(folder / 'bytes.parquet')",
        "seaplib.corpus(folder / 'blank.csv')",
        "seaplib.corpus(folder / 'latin.csv')",
        "seaplib.corpus(folder / 'broken.jsonl')",
        "seaplib.corpus(folder / 'notes.xlsx')",
        "seaplib.corpus(folder)",
        "seaplib.corpus(pd.DataFrame({'question': ['a?']}))",
        "seaplib.corpus(pd.DataFrame({'text': []}))",
        "seaplib.corpus([])",
        "seaplib.corpus(['', ' '])",
        "seaplib.corpus(['a', 3])",
        "seaplib.corpus([('a?', 'b', 'c')])",
        "seaplib.corpus([('a?', None)])",
        "seaplib.corpus(3)",
        "seaplib.corpus(folder / 'task.yaml')",
        "seaplib.corpus(folder / 'broken.yaml')",
        "seaplib.corpus(folder / 'bomb.yaml')",
        "seaplib.questions('mini_piqa', split='validation')",
        "tasks.get('blimp')",
        "tasks.get('ai2_arc')",
    ],
    "models": [
        "seaplib.load('no-such/model-anywhere')",
        "seaplib.load(str(folder / 'absent'))",
        "seaplib.load(str(folder))",
        "seaplib.load('')",
        "seaplib.load('bundled', dtype='float8')",
        "seaplib.load('bundled', dtype='int8')",
        "seaplib.load('bundled', device='cuda:99')",
        "seaplib.load('bundled', device='gpu')",
        "seaplib.load('bundled', device_map='everywhere')",
        "seaplib.load(checkpoint('no weights', lambda place: (place / 'model.safetensors').unlink()))",
        "seaplib.load(checkpoint('half of the weights', cut('model.safetensors')))",
        "seaplib.load(checkpoint('half of the configuration', cut('config.json')))",
        "seaplib.load(checkpoint('no configuration', lambda place: (place / 'config.json').unlink()))",
        "seaplib.load(checkpoint('no tokenizer', lambda place: (place / 'tokenizer.json').unlink()))",
        "seaplib.load(checkpoint('unknown type', config(model_type='llamma')))",
        "seaplib.load(checkpoint('unsupported type', config(model_type='bert')))",
        "seaplib.load(checkpoint('a layer too many', config(num_hidden_layers=9)))",
        "seaplib.load(checkpoint('a wider MLP', config(intermediate_size=1024)))",
        "seaplib.load(checkpoint('heads that do not divide', config(num_attention_heads=7)))",
        "seaplib.load(checkpoint('own code', config(auto_map={'AutoModelForCausalLM': 'm.M'}, model_type='own')))",
        "seaplib.load(checkpoint('a kernel from the hub', config(_attn_implementation='somebody/kernel')))",
        "seaplib.geometry(torch.nn.Linear(2, 2))",
        "seaplib.geometry(pruned)",
    ],
    "statistics": [
        "seaplib.collect(model, tokenizer, 'mini_piqa')",
        "seaplib.collect(model, None, texts)",
        "seaplib.collect(pruned, tokenizer, texts)",
        "seaplib.collect(torch.nn.Linear(2, 2), tokenizer, texts)",
        "seaplib.calibrate(model, tokenizer, 'mini_piqa')",
        "seaplib.calibrate(model, tokenizer, [])",
        "seaplib.calibrate(model, tokenizer, ['mini_pica'])",
        "seaplib.collect(model, tokenizer, seaplib.corpus([' ']))",
        "seaplib.collect(broken, tokenizer, texts)",
        "seaplib.ActivationStats.load(folder / 'absent')",
    ],
    "scores, allocations, masks": [
        "seaplib.score(stats, 's_f')",
        "seaplib.score(stats, None)",
        "seaplib.score(norms, 's_F')",
        "seaplib.aggregate({}, {})",
        "seaplib.aggregate({'a': scores}, {'b': 1.0})",
        "seaplib.aggregate({'a': scores}, {'a': 0.0})",
        "seaplib.aggregate({'a': scores}, {'a': -1.0})",
        "seaplib.aggregate({'a': scores}, {'a': float('nan')})",
        "seaplib.aggregate({'a': scores, 'b': other_scores}, {'a': 1.0, 'b': 1.0})",
        *(f"seaplib.{rule}({wrong})" for rule in ("logistic", "uniform", "adaptive", "energy") for wrong in (
            "1.0", "-0.2", "float('nan')", "0.2, protect_last=-1",
        )),
        "seaplib.logistic(0.2, x0=float('nan'))",
        "seaplib.logistic(0.2, k=1e6)",
        "seaplib.logistic(0.2, protect_last=1.5)",
        "seaplib.Allocation('linear', 0.5)",
        "seaplib.select(scores, 0.99)",
        "seaplib.select(scores, seaplib.logistic(0.5, protect_first=4, protect_last=4))",
        "seaplib.select(scores, seaplib.uniform(0.2, protect_first=9))",
        "seaplib.select(scores, 20)",
        "seaplib.select(scores, True)",
        "seaplib.select(scores, '20%')",
        "seaplib.select(scores, 0.2, budget='flops')",
        "seaplib.select(scores, 0.2, kv_unit='head')",
        "seaplib.select(scores, 0.2, round_to=0)",
        "seaplib.select(scores, 0.2, round_to=4096)",
        "seaplib.select(nan_scores, 0.2)",
        "seaplib.select(energyless, seaplib.energy(0.2))",
        "seaplib.select(nan_energies, seaplib.energy(0.2))",
        "seaplib.select(level, seaplib.adaptive(0.2))",
        "seaplib.PruningMask(shape, mask.heads.int(), mask.channels)",
        "seaplib.PruningMask(shape, mask.heads, mask.channels.float())",
        "seaplib.PruningMask(shape, mask.heads[:-1], mask.channels[:-1])",
        "seaplib.PruningMask(shape, mask.heads[:, :-1], mask.channels)",
        "seaplib.PruningMask(shape, mask.heads, mask.channels[:, :-1])",
        "mask.overlap(other_mask)",
        "seaplib.PruningMask.load(folder / 'absent')",
        "seaplib.PruningMask.load(saved(mask, cut('mask.safetensors')))",
        "seaplib.PruningMask.load(saved(mask, cut('mask.json')))",
        "seaplib.PruningMask.load(saved(mask, lambda place: (place / 'mask.json').write_text('[]')))",
    ],
    "pruning": [
        "seaplib.prune(model, other_mask)",
        "seaplib.prune(model, mask, mode='cut')",
        "seaplib.prune(model, mask, mode=None)",
        "seaplib.prune(pruned, mask)",
        "seaplib.prune(model, None)",
        "seaplib.prune(model, mask, compensation={'attention': stats.mean['attention']})",
        "seaplib.prune(model, mask, compensation={m: v * float('nan') for m, v in stats.mean.items()})",
        "seaplib.prune(model, mask, compensation={m: v[:-1] for m, v in stats.mean.items()})",
        "seaplib.prune(model, mask, compensation='mean')",
        "seaplib.save_pretrained(masked, tokenizer, folder / 'masked')",
        "masked.save_pretrained(folder / 'masked')",
        "seaplib.save_pretrained(pruned, tokenizer, folder / 'file.txt')",
        "seaplib.Variant({'method': 'mine'}, mask, mode='cut')",
        "seaplib.Variant({'method': 'mine'}, None)",
        "seaplib.Method('mine', 's_X', 'task')",
        "seaplib.Method('mine', 's_F', 'tasks')",
        "seaplib.Method('mine', 's_F', 'task', allocation='linear')",
        "seaplib.Method('mine', 's_F', 'task', compensation='bias')",
        "seaplib.Method('mine', 's_F', 'task', budget='flor')",
        "seaplib.Method('mine', 's_F', 'task', kv_unit='head')",
        "seaplib.variants([methods.SEAP_F], {}, [0.2], ['mini_piqa'], 'mini_wikitext')",
        "seaplib.variants([methods.FLAP], {'mini_piqa': stats}, [0.2], ['mini_piqa'], 'mini_wikitext')",
        "seaplib.variants([methods.SEAP_F], {'mini_piqa': stats}, [1.5], ['mini_piqa'], 'mini_wikitext')",
        "seaplib.variants([methods.SEAP_F], {'mini_piqa': stats}, [0.2], ['mini_pica'], 'mini_wikitext')",
        "seaplib.variants([methods.FLAP_PUBLISHED], {'mini_wikitext': stats}, [0.2], ['mini_piqa'], 'mini_wikitext')",
        "methods.preset('papr', {'mini_piqa': stats}, 0.2, 'mini_wikitext')",
        "flap.flap(stats, 1.2)",
        "wanda.wanda(model, tokenizer, texts, 1.5)",
        "shortgpt.shortgpt(shortgpt.measure_influence(model, tokenizer, texts), 1.5)",
        "griffin.Griffin(shape, 1.2)",
        "griffin.griffin(model, channels=0).__enter__()",
        "griffin.griffin(model, channels=10**6).__enter__()",
    ],
    "sparse inputs": [
        *(f"seaplib.InputSparsity({wrong})" for wrong in (
            "'16:8'", "'0:4'", "'2-4'", "'2:4:8'", "'a:b'", "1.5", "-0.5", "50", "float('nan')", "None", "True",
            "'2:4', of='biases'", "'2:4', criterion='largest'", "'2:4', transformation='variance'",
            "'2:4', transformation=3", "'2:4', targets='mpl'", "'2:4', targets='q+x'", "'2:4', layers=(-1,)",
            "'2:4', layers=3", "'2:4', preset='paper'", "0.5, criterion='teal', of='weights'",
            "'2:4', criterion='cats'",
        )),
        "seaplib.sparsity_plan(model, '2:4')",
        "seaplib.sparsity_plan(model, seaplib.InputSparsity(0.5, criterion='teal'))",
        "seaplib.sparsity_plan(model, seaplib.InputSparsity('2:4', layers=(99,)))",
        "seaplib.sparsity_plan(model, seaplib.InputSparsity('8:17'))",
        "seaplib.SparsityPlan.load(folder / 'absent')",
    ],
    "evaluation": [
        "seaplib.evaluate(model, tokenizer, tasks=['mini_pica'])",
        "seaplib.evaluate(model, tokenizer, tasks=[])",
        "seaplib.evaluate(model, tokenizer, tasks=['mini_piqa', 'mini_piqa'])",
        "seaplib.evaluate(model, tokenizer, tasks=['mini_wikitext'])",
        "seaplib.evaluate(model, tokenizer, tasks=['mini_piqa'], variants=[])",
        "seaplib.evaluate(model, tokenizer, tasks=['mini_piqa'], variants=['SEAP'])",
        "seaplib.evaluate(model, tokenizer, tasks=['mini_piqa'], variants=[mask])",
        "seaplib.evaluate(model, tokenizer, tasks=['mini_piqa'], settings={'items': 5})",
        "seaplib.evaluate(model, tokenizer, tasks=['mini_piqa'], settings=seaplib.Evaluation(chat_template=True))",
        "seaplib.evaluate(model, tokenizer, tasks=[str(folder / 'broken.yaml')])",
        "seaplib.evaluate(broken, tokenizer, tasks=['mini_piqa'], settings=seaplib.Evaluation(items=4))",
        "seaplib.evaluate(model, None, tasks=['mini_piqa'])",
        "seaplib.perplexity(model, tokenizer, 'mini_pica')",
        "seaplib.perplexity(model, tokenizer, 'mini_piqa')",
        "seaplib.perplexity(model, tokenizer, 'mini_wikitext', preset='4096')",
        "seaplib.perplexity(model, tokenizer, 'mini_wikitext', samples=0)",
        "seaplib.perplexity(model, tokenizer, 'mini_wikitext', samples=True)",
        "seaplib.perplexity(model, tokenizer, 'mini_wikitext', bos='yes')",
        "seaplib.perplexity(model, tokenizer, seaplib.corpus(['short text']))",
        "comparison.compare(items, {'method': 'dense'}, {'method': 'nobody'})",
        "comparison.compare(items, {'metod': 'dense'}, {'method': 'dense'})",
        "comparison.compare(items, {'method': 'dense'}, {'method': 'dense'}, metric='f1')",
        "comparison.verdict(0.1, 0.2, direction=2)",
    ],
    "experts": [
        "seaplib.ExpertModel(model, tokenizer, {})",
        "seaplib.ExpertModel(model, tokenizer, {'mini_piqa': other_mask, 'general': other_mask})",
        "seaplib.ExpertModel(model, tokenizer, {'dense': mask, 'general': mask})",
        "seaplib.ExpertModel(model, tokenizer, {'../up': mask, 'general': mask})",
        "seaplib.ExpertModel(model, tokenizer, {'mini_piqa': mask, 'general': mask}, budget_bytes=-1)",
        "fleet.expert('mini_boolq')",
        "fleet.using('mini_boolq').__enter__()",
        "fleet(torch.tensor([[1, 2]]), experts=['mini_piqa', 'general', 'general'])",
        "seaplib.ExpertModel.load(folder / 'absent', model, tokenizer)",
        "seaplib.ExpertModel.load(saved(fleet, cut('experts.json')), model, tokenizer)",
        "seaplib.ExpertModel.load(saved(fleet), broken, tokenizer)",
        "seaplib.Router.load(folder / 'absent')",
        "fleets.build(model, tokenizer, [], 'mini_wikitext')",
        "fleets.build(model, tokenizer, ['mini_pica'], 'mini_wikitext')",
        "fleets.build(model, tokenizer, ['mini_piqa'], 'mini_wikitext', sparsity=1.5)",
    ],
    "profiles": [
        "profile(parameters={'sampels': 8})",
        "profile(parameters={'samples': 0})",
        "profile(parameters={'samples': 'many'})",
        "profile(parameters={'samples': None})",
        "profile(parameters={'items': 2.5})",
        "profile(parameters={'seeds': []})",
        "profile(parameters={'seeds': [0, 0]})",
        "profile(parameters={'seeds': 'all'})",
        "profile(parameters={'seeds': [-1]})",
        "profile(parameters={'sparsities': [1.5]})",
        "profile(parameters={'sparsities': [0.99]})",
        "profile(parameters={'sparsities': 0.5})",
        "profile(parameters={'tasks': ['mini_pica']})",
        "profile(parameters={'tasks': []})",
        "profile(parameters={'tasks': ['mini_piqa', 'mini_piqa']})",
        "profile(parameters={'general': 'mini_piqa'})",
        "profile(parameters={'model': 'absent'})",
        "profile(parameters={'model': '../../etc'})",
        "profile(parameters={'dtype': 'float8'})",
        "profile(parameters={'mode': 'cut'})",
        "profile(parameters={'draws': 0})",
        "profile(parameters=['samples'])",
        "profile(notebooks={'42': {'items': 5}})",
        "profile(notebooks={'06': {'x0_grid': [0.1]}})",
        "profile(notebooks={'06': 5})",
        "profile(notebooks={6: {'items': 5}, '06': {'items': 6}})",
        "profile(extends='embeded')",
        "profile(extends='p')",
        "profile(skip=['42'])",
        "profile(jobs=0)",
        "profile(jobs='two')",
        "profile(offline='yes')",
        "profile(colour='red')",
        "profile(name='../up')",
        "profile(name='a/b')",
        "profile(name='x' * 300)",
        "yaml_file('profiles: [')",
        "yaml_file('')",
        "yaml_file('- a\\n- b')",
        "yaml_file(b'\\xff\\xfe\\x00p')",
        "yaml_file('profiles: {p: {}}\\nprofiles: {q: {}}\\nnotebooks: {}')",
        "yaml_file('a: &a [1]\\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\\nprofiles: {p: *b}\\nnotebooks: {}')",
        "yaml_file('profiles: ' + '[' * 2000 + ']' * 2000)",
        "yaml_file('profiles: !!python/object/apply:os.system [\"true\"]')",
        "without('papermill_runs.yaml')",
    ],
    "command line": [
        "cli('reproduce', '--profile', 'embeded')",
        "cli('reproduce', '--only', '42')",
        "cli('reproduce', '--jobs', '0')",
        "cli('reproduce', '--jobs', 'two')",
        "cli('reproduce', '--dry-run', '--profile', 'llama_2_7b', '--gpu', 'H900')",
        "cli('reprodce')",
        "cli()",
        "cli('status', '--profile', 'nobody')",
        "cli('verify', '--profile', 'nobody')",
        "cli('verify', '--only', '42')",
        "cli('compare', '--profile', 'nobody')",
        "cli('compare', 'no-such-revision')",
        "cli('list', '--nonsense')",
    ],
}  # fmt: skip


class Said(Exception):
    """What the command line answered; its first argument is the exit status."""


class World:
    """The names that the expressions use: a model, what is made from it, and damaged versions of both."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._files(folder)
        quick = seaplib.Calibration(samples=8)
        model, tokenizer = seaplib.load("bundled")
        texts = seaplib.corpus("mini_piqa", samples=8)
        stats = seaplib.collect(model, tokenizer, texts, progress=False)
        scores = seaplib.score(stats)
        mask = seaplib.select(scores, seaplib.energy(0.2))
        g = scores.geometry
        small = models.Geometry(
            g.layers, g.hidden, g.heads, g.kv_heads, g.head_dim, g.channels // 2, g.model_parameters
        )
        other = seaplib.Scores(small, scores.attention, scores.channels[:, : small.channels])
        broken = seaplib.load("bundled")[0]
        with torch.no_grad():
            models.linear(models.decoder_layers(broken)[1], "up").weight[0, 0] = float("nan")
        settings, damaged = seaplib.Evaluation(items=4), {m: e * float("nan") for m, e in scores.errors.items()}
        self.names = {
            "seaplib": seaplib, "np": np, "pd": pd, "torch": torch, "Path": Path, "models": models, "tasks": tasks,
            "allocation": allocation, "masks": masks, "methods": methods, "comparison": comparison, "fleets": fleets,
            "perplexity": perplexity, "generation": generation, "experts": experts, "flap": flap, "wanda": wanda,
            "griffin": griffin, "shortgpt": shortgpt, "two_ssp": two_ssp, "authors_code": authors_code,
            "folder": folder, "model": model, "tokenizer": tokenizer, "texts": texts, "stats": stats, "shape": g,
            "norms": seaplib.collect(model, tokenizer, texts, seaplib.Calibration(samples=8, pooling="norm"), False),
            "scores": scores, "mask": mask, "other_scores": other, "quick": quick, "broken": broken,
            "other_mask": seaplib.select(other, seaplib.uniform(0.2)),
            "pruned": seaplib.prune(model, mask), "masked": seaplib.prune(model, mask, mode="mask"),
            "nan_scores": seaplib.Scores(g, scores.attention, scores.channels * float("nan"), errors=scores.errors),
            "energyless": seaplib.Scores(g, scores.attention, scores.channels),
            "nan_energies": seaplib.Scores(g, scores.attention, scores.channels, errors=damaged),
            "level": seaplib.Scores(g, torch.ones_like(scores.attention), torch.ones_like(scores.channels)),
            "items": seaplib.evaluate_items(model, tokenizer, ["mini_piqa"], settings=settings, progress=False),
            "fleet": seaplib.ExpertModel(model, tokenizer, {"mini_piqa": mask, "general": mask}),
            "checkpoint": self.checkpoint, "cut": self.cut, "config": self.config, "saved": self.saved,
            "profile": self.profile, "yaml_file": self.yaml_file, "without": self.without, "cli": self.cli,
        }  # fmt: skip

    @staticmethod
    def _files(folder: Path) -> None:
        good = pd.DataFrame({"question": ["a?", "b?"], "answer": ["c", "d"]})
        good.to_parquet(folder / "good.parquet")
        (folder / "empty.parquet").write_bytes(b"")
        whole = (folder / "good.parquet").read_bytes()
        (folder / "half.parquet").write_bytes(whole[: len(whole) // 2])
        good[:0].to_parquet(folder / "no_rows.parquet")
        good[["question"]].to_parquet(folder / "one_column.parquet")
        good.assign(answer=[1.5, 2.5]).to_parquet(folder / "numbers.parquet")
        good.assign(answer=[["c"], ["d"]]).to_parquet(folder / "lists.parquet")
        good.assign(answer=[b"c", b"\xff"]).to_parquet(folder / "bytes.parquet")
        (folder / "blank.csv").write_text("question,answer\n , \n")
        (folder / "latin.csv").write_bytes("question,answer\ncafé?,thé\n".encode("latin-1"))
        (folder / "broken.jsonl").write_text('{"question": "a?", "answer": "b"}\n{"question"\n')
        (folder / "notes.xlsx").write_bytes(b"PK")
        (folder / "file.txt").write_text("a file, where a folder is wanted")
        (folder / "task.yaml").write_text("task: mine\ndataset_path: nobody\n")
        (folder / "broken.yaml").write_text("task: [\n")
        bomb = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
        bomb += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
        (folder / "bomb.yaml").write_text("\n".join(bomb))

    def _new(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=re.sub(r"\W+", "-", name) + "-", dir=self.folder))

    def checkpoint(self, what: str, damage) -> str:
        """The bundled model's checkpoint with something wrong."""
        place = self._new(what)
        model, tokenizer = seaplib.load("bundled")
        seaplib.save_pretrained(model, tokenizer, place)
        damage(place)
        return str(place)

    @staticmethod
    def cut(name: str):
        """Half of a file."""

        def damage(place: Path) -> None:
            content = (place / name).read_bytes()
            (place / name).write_bytes(content[: len(content) // 2])

        return damage

    @staticmethod
    def config(**changes):
        """Other values in a checkpoint's configuration."""

        def damage(place: Path) -> None:
            known = json.loads((place / "config.json").read_text("utf-8"))
            (place / "config.json").write_text(json.dumps(known | changes), "utf-8")

        return damage

    def saved(self, noun, damage=lambda place: None) -> Path:
        place = self._new("saved")
        noun.save(place)
        damage(place)
        return place

    @contextlib.contextmanager
    def _project(self, content: bytes | None):
        """A project with this papermill_runs.yaml, the notebooks and the data."""
        root = self._new("project")
        for name in ("notebooks", "data"):
            (root / name).symlink_to(ROOT / name)
        if content is not None:
            (root / "papermill_runs.yaml").write_bytes(content)
        places = {f"SEAP_{name}_DIR": str(root / name.lower()) for name in ("STORE", "RUNS", "EXECUTED", "FIGURES")}
        before = dict(os.environ)
        os.environ.update({"SEAP_ROOT": str(root)} | places)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def profile(self, name: str = "p", **entry):
        """A profile beside the project's own, planned."""
        content = yaml.safe_load((ROOT / "papermill_runs.yaml").read_text("utf-8"))
        content["profiles"][name] = {"extends": "smoke"} | entry
        with self._project(yaml.safe_dump(content).encode()):
            return runner.prepare(name)

    def yaml_file(self, content: str | bytes):
        with self._project(content if isinstance(content, bytes) else content.encode()):
            return runner.prepare("p")

    def without(self, name: str):
        with self._project(None):
            return runner.prepare("p")

    @staticmethod
    def cli(*arguments: str):
        """The command line's answer: a :class:`Said` where it refuses."""
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(errors):
            try:
                status = command(list(arguments))
            except SystemExit as stopped:
                status = stopped.code
        if status:
            raise Said(status, errors.getvalue())
        return errors.getvalue()


def tried(expression: str, names: dict) -> tuple[str, str]:
    """What an input gets, as text, and what is wrong with that; "" where nothing is."""
    try:
        value = eval(compile(expression, "<input>", "eval"), dict(names))  # noqa: S307 (our own expressions)
    except Said as answer:
        status, text = answer.args
        lines = [line for line in text.strip().splitlines() if not line.startswith("usage:") and line[:1] != " "]
        wrong = "" if status == 2 and len(lines) == 1 else f"exit status {status} and {len(lines)} lines"
        return f"exit status {status}: {lines[-1] if lines else ''}", wrong
    except Exception as error:
        where = error.__traceback__
        while where.tb_next:
            where = where.tb_next
        file = Path(where.tb_frame.f_code.co_filename)
        text = str(error)
        wrong = (
            [] if isinstance(error, OURS) and type(error) is not UnicodeDecodeError else [f"a {type(error).__name__}"]
        )
        wrong += [] if (ROOT / "seaplib") in file.parents else [f"raised in {file.name}"]
        wrong += [] if text and "\n" not in text.strip() and len(text) <= LONGEST else ["no single line"]
        return f"{type(error).__name__}: {' '.join(text.split())}", ", ".join(wrong)
    return f"accepted: {value!r}"[:200], "accepted"


def run() -> tuple[list[tuple[str, str, str]], list[str]]:
    """(area, input, what it gets) of every input, and the complaints."""
    rows, complaints = [], []
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ["SEAP_STORE_DIR"] = str(Path(folder) / "store")
        os.environ.pop("SEAP_DATA_DIR", None)
        world = World(Path(folder))
        for area, expressions in INPUTS.items():
            for expression in expressions:
                got, wrong = tried(expression, world.names)
                got = re.sub(rf"{re.escape(folder)}(/[\w-]+-[a-z0-9_]{{8}})?", "…", got).replace(str(ROOT), "…")
                rows.append((area, expression, got))
                if wrong:
                    complaints.append(f"{expression}\n    {wrong}: {got}")
    return rows, complaints


def table(rows: list[tuple[str, str, str]]) -> str:
    """The inputs in Markdown, by area."""
    cell = lambda text: text.replace("|", "\\|").replace("<", "&lt;")  # noqa: E731
    lines = ["# Bad inputs", "", f"{len(rows)} inputs and what each gets; written by `tests/bad_inputs.py`.", ""]
    for area in INPUTS:
        lines += [f"## {area.capitalize()}", "", "| input | gets |", "|:--|:--|"]
        lines += [f"| ``{cell(code)}`` | {cell(got)} |" for place, code, got in rows if place == area] + [""]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Try every bad input, and write what each gets.")
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args(arguments).check
    rows, complaints = run()
    if not check:
        TABLE.write_text(table(rows), "utf-8")
    print("\n".join(complaints))
    print(f"{len(rows)} inputs, {len(complaints)} of them not refused in a line of ours")
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main())
