#!/usr/bin/env python3
"""Generation and an update on a GPU beside transformers and a plain torch loop, on the same card, as ratios.

usage: beside_torch.py ANNEAL [--device cuda] [--rows 64,256,512] [--prompt 256] [--response 512] [--skip-batch]
needs: pip install torch transformers; ANNEAL is a binary built with the device's feature

The model is of Qwen2.5-0.5B's shape with random weights. Theirs: transformers' `generate` and `generate_batch` (paged
cache, CUDA graphs where it chooses them), of which the faster counts, in bf16; and one update over all rows: bf16 autocast
over f32 weights, SDPA, fused AdamW, clipped gradients, the loss over response tokens alone, no recomputation. Ours:
`anneal bench step`, which decodes all rows at once, prompts included;
of `generate_batch` the time counts from the first token on, in its favour. Rows share prompts by eights on both sides. Absolute times are this machine's alone.
"""

import argparse
import json
import subprocess
import sys
import time

CONFIG = dict(
    vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
    num_key_value_heads=2, max_position_embeddings=32768, rms_norm_eps=1e-6, tie_word_embeddings=True,
)
TINY = dict(
    vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=2048, rms_norm_eps=1e-6, tie_word_embeddings=True,
)
GROUP = 8


def model_of(args, dtype):
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**(TINY if args.tiny else CONFIG), attn_implementation="sdpa"))
    return model.to(args.torch_device, dtype)


def prompts_of(args, rows, vocab):
    import torch

    generator = torch.Generator().manual_seed(1)
    distinct = torch.randint(0, vocab, (max(rows // GROUP, 1), args.prompt), generator=generator)
    return distinct.repeat_interleave(GROUP, 0)[:rows]


def synchronize(args):
    import torch

    if args.torch_device == "cuda":
        torch.cuda.synchronize()


def timed(args, work):
    synchronize(args)
    start = time.perf_counter()
    work()
    synchronize(args)
    return time.perf_counter() - start


def report(**figures):
    print(json.dumps(figures), flush=True)
    return figures


def generate(args, model, rows):
    import torch

    ids = prompts_of(args, rows, model.config.vocab_size).to(args.torch_device)
    options = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=None, pad_token_id=0)

    def run(tokens):
        with torch.no_grad():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), min_new_tokens=tokens, max_new_tokens=tokens, **options)
        assert out.shape == (rows, args.prompt + tokens), out.shape

    run(4)
    seconds = timed(args, lambda: run(args.response))
    return report(theirs="generate", rows=rows, seconds=seconds, tokens_per_second=rows * args.response / seconds)


def generate_batch(args, model, rows):
    from transformers import GenerationConfig

    inputs = prompts_of(args, rows, model.config.vocab_size).tolist()
    config = GenerationConfig(max_new_tokens=args.response, do_sample=True, temperature=1.0, top_k=0, eos_token_id=-1, pad_token_id=0)
    span = {}

    def run():
        out = model.generate_batch(inputs=inputs, generation_config=config, record_timestamps=True, warmup=True)
        counts = [len(result.generated_tokens) for result in out.values()]
        assert len(counts) == rows and min(counts) == args.response, (len(counts), min(counts, default=0))
        stamps = [result.timestamps for result in out.values() if result.timestamps]
        if stamps:
            # From the first token of all to the last: neither the capture of graphs nor the first prefill counts.
            span["decode"] = max(s[-1] for s in stamps) - min(s[0] for s in stamps)

    whole = timed(args, run)
    seconds = span.get("decode", whole)
    return report(theirs="generate_batch", rows=rows, seconds=seconds, whole_seconds=whole, tokens_per_second=rows * args.response / seconds)


def update(args, rows):
    import torch

    model = model_of(args, torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=args.torch_device == "cuda")
    prompts = prompts_of(args, rows, model.config.vocab_size)
    responses = torch.randint(0, model.config.vocab_size, (rows, args.response))
    ids = torch.cat([prompts, responses], 1).to(args.torch_device)
    advantages = torch.randn(rows, 1, device=args.torch_device)

    def micro(rows):
        with torch.autocast(args.torch_device, dtype=torch.bfloat16):
            logits = model(ids[rows], logits_to_keep=args.response + 1).logits[:, :-1]
        targets = ids[rows, args.prompt :]
        log_probs = -torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        ratio = (log_probs - log_probs.detach()).exp()
        clipped = ratio.clamp(0.8, 1.2)
        loss = -torch.minimum(ratio * advantages[rows], clipped * advantages[rows]).sum() / (len(ids) * args.response)
        loss.backward()

    def run():
        for start in range(0, rows, args.micro):
            micro(slice(start, start + args.micro))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(2):
        micro(slice(0, args.micro))
    optimizer.step()
    optimizer.zero_grad()
    seconds = timed(args, run)
    tokens = rows * (args.prompt + args.response)
    peak = torch.cuda.max_memory_allocated() if args.torch_device == "cuda" else None
    return report(theirs="update", rows=rows, seconds=seconds, tokens_per_second=tokens / seconds, peak_bytes=peak)


def ours(args, rows):
    """Two steps, of which the first also builds the kernels: the second's figures."""
    command = [args.anneal, "bench", "step", "--device", args.device, "--random-model", "tiny" if args.tiny else "0.5b",
               "--prompts", str(max(rows // GROUP, 1)), "--group", str(GROUP), "--prompt-tokens", str(args.prompt),
               "--response-tokens", str(args.response), "--steps", "2", "--dtype", args.dtype,
               f"rollout.batch_rows={rows}", *args.settings.split()]
    output = subprocess.run(command, capture_output=True, text=True)
    print(output.stdout, end="", flush=True)
    if output.returncode != 0:
        print(f"anneal failed:\n{output.stderr}", flush=True)
        return None
    return [json.loads(line) for line in output.stdout.splitlines()][1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("anneal")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--torch-device", default="cuda")
    parser.add_argument("--rows", default="64,256,512")
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--response", type=int, default=512)
    parser.add_argument("--micro", type=int, default=16, help="rows of theirs at once in an update")
    parser.add_argument("--dtype", default="bf16", help="that Anneal computes in")
    parser.add_argument("--settings", default="", help="more of Anneal's, as `update.max_tokens=8192`")
    parser.add_argument("--skip-batch", action="store_true")
    parser.add_argument("--skip-ours", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a model that a CPU can try the script with")
    args = parser.parse_args()
    import torch

    sizes = [int(rows) for rows in args.rows.split(",")]
    if any(rows % GROUP for rows in sizes):
        sys.exit(f"--rows: groups are of {GROUP}")
    model = model_of(args, torch.bfloat16).eval()
    theirs = {rows: [generate(args, model, rows)["tokens_per_second"]] for rows in sizes}
    their_update = update(args, sizes[-1])["tokens_per_second"]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    for rows in [] if args.skip_batch else sizes:
        try:
            theirs[rows].append(generate_batch(args, model, rows)["tokens_per_second"])
        except Exception as error:
            report(theirs="generate_batch", rows=rows, failed=repr(error)[:300])
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if args.skip_ours:
        return
    for rows in sizes:
        found = ours(args, rows)
        if not found:
            sys.exit(1)
        tokens = rows * args.response
        rate = tokens / found["generate_seconds"]
        print(f"generation, {rows} rows: {rate:.0f} tokens/s, theirs {max(theirs[rows]):.0f}, ratio {rate / max(theirs[rows]):.3f}")
        if rows == sizes[-1]:
            whole = rows * (args.prompt + args.response)
            rate = whole / found["update_seconds"]
            print(f"update, {rows} rows: {rate:.0f} tokens/s, theirs {their_update:.0f}, ratio {rate / their_update:.3f}")
            step = tokens / max(theirs[rows]) + whole / their_update
            print(f"step, {rows} rows: {found['step_seconds']:.2f} s, theirs {step:.2f}, their time over ours {step / found['step_seconds']:.3f}")


if __name__ == "__main__":
    sys.exit(main())
