"""Train the bundled model: ``python data/bundled/train.py``.

A stream of general text and task items is generated on the fly (never an item of the validation or
test splits), packed, and seen once. Muon updates the matrices, AdamW embeddings and norms.

The defaults are how the bundled model was made: one thread of a processor, fp32, compiled. Training is
chaotic: what rounds differently (more threads, another kind of processor, other versions of compiler and
libraries) ends in another model, about as good. ``--threads 0 --precision auto`` is faster and does.

A run that was stopped, with Ctrl-C or otherwise, is resumed by the same command, as if it had not been
stopped (bit for bit, tested on the CPU without compilation): after the first step and then about every
minute a checkpoint is written to the folder ``<output>.training``, which goes away when the model is
finished. Weights, tokenizer and log are replaced only then. Exit status: 0 finished, 2 this cannot be
done, 130 interrupted.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve each other under load

import argparse
import csv
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from stream import Stream, train_tokenizer
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

HERE = Path(__file__).resolve().parent
SHIPPED = HERE / "model"
# Widths are divisible by 32, as N:M patterns of up to 32 values need.
GEOMETRY = dict(
    hidden_size=192, intermediate_size=352, num_hidden_layers=8, num_attention_heads=12, num_key_value_heads=12
)
EMBEDDING_STD = 0.5  # of the input embeddings: small ones leave everything to the first layer
STEP_TOKENS = 4096
SHORT, LONG = 256, 1024  # tokens in a packed sequence
CHUNK_STEPS = 32  # steps whose text is generated together
CHECKPOINT_SECONDS = 60
#: Arguments that say which model comes out: a run keeps them to its end. The last four round differently.
OPTIONS = ("tokens", "seed", "vocabulary", "matrix_lr", "other_lr", "weight_decay")
OPTIONS += ("precision", "device", "threads", "compile")


def as_given(name: str, value) -> str:
    """An option as it is written on the command line."""
    option = name.replace("_", "-")
    return f"--{option} {value}" if not isinstance(value, bool) else f"--{option}" if value else f"--no-{option}"


class CheckpointError(ValueError):
    """A checkpoint that this run cannot go on from; the message is one line and says what to do."""


class Checkpoint:
    """The state of an unfinished run in a file, and the options that it belongs to; ``step``: of the last one."""

    def __init__(self, path: Path, options: dict):
        self.path, self.options, self.step = path, options, None

    def load(self) -> dict | None:
        """What was saved last, None where nothing was.

        Raises :class:`CheckpointError` for a damaged file, and for one of a run with other options.
        """
        if not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            options, self.step = dict(state["options"]), state["step"]
        except Exception as error:  # what torch raises about a damaged file is not one class
            raise CheckpointError(f"{self.path} is no checkpoint of this program, or damaged: delete it") from error
        if differing := [name for name in self.options if options.get(name) != self.options[name]]:
            theirs, ours = (
                " ".join(as_given(name, values.get(name)) for name in differing) for values in (options, self.options)
            )
            raise CheckpointError(
                f"the checkpoint {self.path} is of a run with {theirs}, not {ours}: delete it, or give the same options"
            )
        return state

    def save(self, step: int, **state) -> None:
        """Replace what was saved; a run killed meanwhile leaves the previous one."""
        fresh = self.path.with_suffix(".tmp")
        torch.save(dict(state, step=step, options=self.options), fresh)
        os.replace(fresh, self.path)
        self.step = step


def float32_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
    """Attention in fp32 inside autocast: its bf16 backward is several times slower on CPUs."""
    with torch.autocast(query.device.type, enabled=False):
        out = scaled_dot_product_attention(
            query.float(), key.float(), value.float(), attn_mask=attention_mask, is_causal=attention_mask is None
        )
    return out.transpose(1, 2).contiguous(), None


def fast_bf16(device: str) -> bool:
    """Whether products in bf16 are faster than in fp32: on GPUs, and on CPUs with matrix units (AMX)."""
    return device == "cuda" or torch.cpu.get_capabilities().get("amx_tile", False)


def build(tokenizer, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        rms_norm_eps=1e-6,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **GEOMETRY,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(std=EMBEDDING_STD)
        for layer in model.model.layers:  # residual writes start small: depth grows in during training
            layer.self_attn.o_proj.weight.mul_((2 * config.num_hidden_layers) ** -0.5)
            layer.mlp.down_proj.weight.mul_((2 * config.num_hidden_layers) ** -0.5)
    return model


def optimizers(model, matrix_lr: float, other_lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or ".layers." not in name]
    return [
        torch.optim.Muon(matrices, lr=matrix_lr, weight_decay=weight_decay),
        torch.optim.AdamW(others, lr=other_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def schedule(step: int, steps: int) -> float:
    """Warm up over 40 steps, stay, then fall linearly to 0 over the last 60%."""
    return min((step + 1) / 40, 1.0, (steps - step) / (0.6 * steps))


def shape(step: int, steps: int) -> tuple[int, int]:
    """(sequences, length) of a step. Every eighth is long and sees across documents, for the sake of long contexts."""
    return (STEP_TOKENS // LONG, LONG) if step % 8 == 7 else (STEP_TOKENS // SHORT, SHORT)


def train(args, checkpoint: Checkpoint) -> None:
    """Train to the end, from the checkpoint if there is one, and write the model.

    Raises :class:`CheckpointError` where that cannot be gone on from.
    """
    state = checkpoint.load()
    device, steps = args.device, args.tokens // STEP_TOKENS
    resumed = f", going on after step {checkpoint.step}" if state else ""
    how = f"{args.precision}, threads: {args.threads or os.cpu_count()}, {'' if args.compile else 'not '}compiled"
    print(f"{steps} steps of {STEP_TOKENS} tokens on {device} in {how}{resumed}")
    print(f"checkpoint: {checkpoint.path}\nmodel: {args.output}", flush=True)
    torch.set_num_threads(args.threads or os.cpu_count())
    ALL_ATTENTION_FUNCTIONS["float32"] = float32_attention
    tokenizer = train_tokenizer(args.vocabulary)
    model = build(tokenizer, args.seed).to(device)
    model.config._attn_implementation = "float32"
    stream = Stream(tokenizer, args.seed)
    optims = optimizers(model, args.matrix_lr, args.other_lr, args.weight_decay)
    base = [g["lr"] for o in optims for g in o.param_groups]
    start, log, spent, running = 0, [], 0.0, None
    if state:
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optims, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        start, log, spent, running = (state[k] for k in ("step", "log", "seconds", "running"))

    def loss_of(ids, weights, mask):
        logits = model(input_ids=ids[:, :-1], attention_mask=mask, use_cache=False).logits.float()
        losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()

    compiled = torch.compile(loss_of) if args.compile else loss_of
    # The first checkpoint comes right after the first step, as its compilation takes a minute.
    began, saved_at = time.monotonic() - spent, -math.inf
    with tqdm(range(start, steps), initial=start, total=steps, unit="step", mininterval=5) as bar:
        for step in bar:
            if step % CHUNK_STEPS == 0 or step == start:
                chunk = stream.chunk(step // CHUNK_STEPS, CHUNK_STEPS * STEP_TOKENS)
            rows, length = shape(step, steps)
            ids, weights = (part.to(device) for part in stream.batch(chunk, step % CHUNK_STEPS, rows, length))
            factor, i = schedule(step, steps), 0
            for optimizer in optims:
                for group in optimizer.param_groups:
                    group["lr"], i = base[i] * factor, i + 1
            with torch.autocast(device, dtype=torch.bfloat16, enabled=args.precision == "bf16"):
                loss = compiled(ids, weights, None if length == LONG else stream.mask(ids[:, :-1]))
            loss.backward()
            for optimizer in optims:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            value = loss.item()
            running = value if running is None else 0.95 * running + 0.05 * value
            if (step + 1) % 20 == 0 or step + 1 == steps:
                seconds = time.monotonic() - began
                speed = (step + 1) * STEP_TOKENS / seconds
                log.append([step + 1, (step + 1) * STEP_TOKENS, round(running, 4), round(seconds, 1), round(speed)])
                bar.set_postfix(loss=f"{running:.3f}", tokens_per_s=round(speed))
            # Never before a long step: the shape that comes first is compiled for itself, the second for
            # any length, so that a run that went on with a long one would round its short ones differently.
            if shape(step + 1, steps)[1] == SHORT and time.monotonic() - saved_at >= CHECKPOINT_SECONDS:
                checkpoint.save(
                    step + 1,
                    model=model.state_dict(),
                    optimizers=[o.state_dict() for o in optims],
                    log=log,
                    seconds=time.monotonic() - began,
                    running=running,
                )
                saved_at = time.monotonic()
    finish(model, tokenizer, log, args.output, checkpoint.path)


def finish(model, tokenizer, log, output: Path, checkpoint: Path) -> None:
    """Write model and tokenizer beside the checkpoint, then swap them for the old ones; write the log, tidy up."""
    fresh = checkpoint.with_name("finished")
    shutil.rmtree(fresh, ignore_errors=True)  # of a run that was killed just here
    model.config._attn_implementation = "sdpa"
    model.to("cpu").save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    output.mkdir(exist_ok=True)
    for file in fresh.iterdir():
        file.chmod(0o644)
        os.replace(file, output / file.name)
    fresh.rmdir()
    with open((HERE if output == SHIPPED else output) / "training_log.csv", "w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["step", "tokens", "loss", "seconds", "tokens_per_second"])
        writer.writerows(log)
    for file in (checkpoint, checkpoint.with_suffix(".tmp")):
        file.unlink(missing_ok=True)
    if not any(checkpoint.parent.iterdir()):  # else someone keeps other files there
        checkpoint.parent.rmdir()
    print(f"saved to {output}; {log[-1][3] / 60:.1f} minutes, {log[-1][4]} tokens/s, loss {log[-1][2]}")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line, with everything that can be wrong about it found before any work is done."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="A run that was stopped is resumed by the same command, from its checkpoint in <output>.training.",
    )
    parser.add_argument("--tokens", type=int, default=11_000_000, help="training tokens (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and text (default %(default)s)")
    parser.add_argument("--vocabulary", type=int, default=2304, help="tokenizer size (default %(default)s)")
    parser.add_argument("--matrix-lr", type=float, default=0.02, help="Muon's learning rate (default %(default)s)")
    parser.add_argument("--other-lr", type=float, default=4e-3, help="AdamW's learning rate (default %(default)s)")
    parser.add_argument("--weight-decay", type=float, default=0.2, help="of the matrices (default %(default)s)")
    other = "; anything else makes another model"
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help=f"(default %(default)s{other})")
    parser.add_argument("--threads", type=int, default=1, help=f"0: all cores (default %(default)s{other})")
    parser.add_argument(
        "--precision",
        choices=["auto", "bf16", "fp32"],
        default="fp32",
        help=f"auto: bf16 on a GPU or a CPU with matrix units, else fp32 (default %(default)s{other})",
    )
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help=f"with torch.compile, by g++{other}"
    )
    parser.add_argument(
        "--output",
        default=SHIPPED,
        type=Path,
        help="folder of the finished model and, except for the bundled model's, its log (default: the bundled model's)",
    )
    args = parser.parse_args(given)
    smallest = dict(tokens=STEP_TOKENS, seed=0, vocabulary=512, matrix_lr=0, other_lr=0, weight_decay=0, threads=0)
    largest = dict(vocabulary=2**16, threads=2**10)
    for name, least in smallest.items():
        if not getattr(args, name) >= least:  # nan is not
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
        if getattr(args, name) > largest.get(name, math.inf):
            parser.error(f"--{name} must be at most {largest[name]}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here")
    if args.compile and args.device == "cpu" and not shutil.which("g++"):
        parser.error("there is no g++ to compile with: install it, or say --no-compile (slower, and another model)")
    if not args.output.name:
        parser.error("--output names no folder")
    args.output = args.output.resolve()
    args.work = Path(f"{args.output}.training")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output {args.output} is a file; name a folder")
    try:  # to write, where it will be written in an hour
        if args.output.exists():
            tempfile.TemporaryFile(dir=args.output).close()
        args.work.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=args.work).close()
    except OSError as error:
        parser.error(f"cannot write to --output {args.output} and {args.work} beside it ({error.strerror})")
    if args.precision == "auto":
        args.precision = "bf16" if fast_bf16(args.device) else "fp32"
    return args


def main(given: list[str] | None = None) -> int:
    args = arguments(given)
    options = {name: getattr(args, name) for name in OPTIONS}
    checkpoint = Checkpoint(args.work / "checkpoint.pt", options)
    try:
        train(args, checkpoint)
    except CheckpointError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        there = f"the last checkpoint is of step {checkpoint.step}; the same command goes on from there"
        none = "there is no checkpoint yet; the same command begins again"
        print(f"train.py: interrupted; {there if checkpoint.step else none}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:  # a kill while compiling leaves half a library in the usual cache
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", cache)
        sys.exit(main())
