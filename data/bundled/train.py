"""Train the bundled model: ``python data/bundled/train.py`` (see --help).

A stream of general text and task items is generated on the fly (never an item of the validation or
test splits), packed, and seen once. Muon updates the matrices, AdamW embeddings and norms. A killed
run resumes from its last checkpoint; weights, tokenizer and log are replaced only at the end.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve each other under load

import argparse
import csv
import shutil
import time
from pathlib import Path

import torch
from stream import Stream, train_tokenizer
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

HERE = Path(__file__).parent
# Widths are divisible by 32, as N:M patterns of up to 32 values need.
GEOMETRY = dict(
    hidden_size=192, intermediate_size=352, num_hidden_layers=8, num_attention_heads=12, num_key_value_heads=12
)
EMBEDDING_STD = 0.5  # of the input embeddings: small ones leave everything to the first layer
STEP_TOKENS = 4096
SHORT, LONG = 256, 1024  # tokens in a packed sequence
CHUNK_STEPS = 32  # steps whose text is generated together


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


def train(args) -> None:
    work = Path(args.output).parent / "training"
    work.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(args.threads or os.cpu_count())
    ALL_ATTENTION_FUNCTIONS["float32"] = float32_attention
    tokenizer = train_tokenizer(args.vocabulary)
    model = build(tokenizer, args.seed).to(device)
    model.config._attn_implementation = "float32"
    stream = Stream(tokenizer, args.seed)
    steps = args.tokens // STEP_TOKENS
    bf16 = args.precision == "bf16" or args.precision == "auto" and fast_bf16(device)
    optims = optimizers(model, args.matrix_lr, args.other_lr, args.weight_decay)
    base = [g["lr"] for o in optims for g in o.param_groups]
    start, log, spent, running = 0, [], 0.0, None
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        if state["tokens"] == args.tokens and state["seed"] == args.seed:
            model.load_state_dict(state["model"])
            for optimizer, saved in zip(optims, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            start, log, spent, running = (state[k] for k in ("step", "log", "seconds", "running"))
            print(f"resuming at step {start} of {steps}")

    def loss_of(ids, weights, mask):
        logits = model(input_ids=ids[:, :-1], attention_mask=mask, use_cache=False).logits.float()
        losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()

    compiled = torch.compile(loss_of) if args.compile and shutil.which("g++") else loss_of
    began, saved_at = time.monotonic() - spent, time.monotonic()
    bar = tqdm(range(start, steps), initial=start, total=steps, unit="step", mininterval=5)
    for step in bar:
        if step % CHUNK_STEPS == 0 or step == start:
            chunk = stream.chunk(step // CHUNK_STEPS, CHUNK_STEPS * STEP_TOKENS)
        rows, length = shape(step, steps)
        ids, weights = (part.to(device) for part in stream.batch(chunk, step % CHUNK_STEPS, rows, length))
        factor, i = schedule(step, steps), 0
        for optimizer in optims:
            for group in optimizer.param_groups:
                group["lr"], i = base[i] * factor, i + 1
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
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
        if time.monotonic() - saved_at > 60:
            saved_at = time.monotonic()
            save_checkpoint(checkpoint, model, optims, step + 1, args, log, time.monotonic() - began, running)
    finish(model, tokenizer, log, Path(args.output))
    checkpoint.unlink(missing_ok=True)


def save_checkpoint(path: Path, model, optims, step, args, log, seconds, running) -> None:
    state = dict(
        model=model.state_dict(),
        optimizers=[o.state_dict() for o in optims],
        step=step,
        tokens=args.tokens,
        seed=args.seed,
        log=log,
        seconds=seconds,
        running=running,
    )
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def finish(model, tokenizer, log, output: Path) -> None:
    """Write model, tokenizer and log beside the old ones, then swap."""
    fresh = output.with_name(output.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    model.config._attn_implementation = "sdpa"
    model.to("cpu").save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    output.mkdir(parents=True, exist_ok=True)
    for file in fresh.iterdir():
        file.chmod(0o644)
        os.replace(file, output / file.name)
    fresh.rmdir()
    with open(output.parent / "training_log.csv", "w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["step", "tokens", "loss", "seconds", "tokens_per_second"])
        writer.writerows(log)
    print(f"saved to {output}; {log[-1][3] / 60:.1f} minutes, {log[-1][4]} tokens/s, loss {log[-1][2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=11_000_000, help="training tokens (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocabulary", type=int, default=2304, help="tokenizer size (default %(default)s)")
    parser.add_argument("--matrix-lr", type=float, default=0.02, help="Muon's learning rate (default %(default)s)")
    parser.add_argument("--other-lr", type=float, default=4e-3, help="AdamW's learning rate (default %(default)s)")
    parser.add_argument("--weight-decay", type=float, default=0.2, help="of the matrices (default %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all cores)")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="(default: the faster)")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="do not use torch.compile")
    parser.add_argument("--output", default=str(HERE / "model"), help="folder of the finished model")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
