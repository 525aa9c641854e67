#!/usr/bin/env python3
"""One GRPO step of Anneal beside TRL's, in turn (A B A B), as ratios.

usage: beside_trl.py MODEL_DIR [float32|bfloat16] [rounds]      after `cargo build --release -p cli`
needs: pip install torch transformers trl datasets

The work: 4 prompts x 8 responses of 44 + 64 tokens, one update. Each round runs three steps of each and keeps the
median; the closing line has medians over rounds, and Anneal's over TRL's. Absolute times are this machine's alone.
"""

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

STEPS = 3


def trl(model, dtype):
    """Runs in a process of its own, whose peak memory is TRL's."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(os.cpu_count())
    rng = random.Random(0)
    questions = [(rng.randint(10, 99), rng.randint(10, 99)) for _ in range(256)]
    rows = [
        {"prompt": [{"role": "user", "content": f"What is {a}+{b}? Answer with just the number."}], "answer": str(a + b)}
        for a, b in questions
    ]
    seconds = {"generate_seconds": [], "step_seconds": []}

    class Timed(GRPOTrainer):
        def _generate_and_score_completions(self, *args, **kwargs):
            start = time.perf_counter()
            result = super()._generate_and_score_completions(*args, **kwargs)
            seconds["generate_seconds"].append(time.perf_counter() - start)
            return result

        def training_step(self, *args, **kwargs):
            start = time.perf_counter()
            result = super().training_step(*args, **kwargs)
            seconds["step_seconds"].append(time.perf_counter() - start)
            return result

    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=32, num_generations=8, max_completion_length=64,
        gradient_accumulation_steps=1, max_steps=STEPS, learning_rate=1e-6, temperature=1.0, report_to=[], beta=0.0,
        bf16=dtype == "bfloat16", use_cpu=True, save_strategy="no", model_init_kwargs={"dtype": dtype},
        generation_kwargs={"min_new_tokens": 64}, disable_tqdm=True,
    )
    reward = lambda completions, answer, **_: [float(a in c[0]["content"]) for c, a in zip(completions, answer)]
    Timed(model=model, reward_funcs=reward, args=config, train_dataset=Dataset.from_list(rows)).train()
    figures = {name: statistics.median(values) for name, values in seconds.items()}
    figures["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("FIGURES", json.dumps(figures))


def run_trl(model, dtype):
    command = [sys.executable, __file__, "--trl", model, dtype]
    output = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in output.stdout.splitlines() if line.startswith("FIGURES ")]
    if not lines:
        sys.exit(f"TRL failed:\n{output.stderr[-2000:]}")
    return json.loads(lines[-1].removeprefix("FIGURES "))


def run_anneal(model, dtype):
    binary = os.path.join(os.path.dirname(__file__), "..", "target", "release", "anneal")
    kind = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    command = [binary, "bench", "step", "--model", model, "--prompts", "4", "--group", "8", "--prompt-tokens", "44",
               "--response-tokens", "64", "--steps", str(STEPS), "--dtype", kind]
    output = subprocess.run(command, capture_output=True, text=True)
    if output.returncode != 0:
        sys.exit(f"anneal failed:\n{output.stderr}")
    return json.loads(output.stdout.splitlines()[-1])


def main():
    model, dtype, rounds = (sys.argv[1:] + [None, "float32", "2"][len(sys.argv[1:]):])[:3]
    rounds = int(rounds)
    ours, theirs = [], []
    for number in range(rounds):
        ours.append(run_anneal(model, dtype))
        print("anneal", json.dumps(ours[-1]), flush=True)
        theirs.append(run_trl(model, dtype))
        print("trl   ", json.dumps(theirs[-1]), flush=True)
    for name in ("step_seconds", "generate_seconds", "peak_rss_bytes"):
        a, b = (statistics.median(run[name] for run in runs) for runs in (ours, theirs))
        print(f"{name}: anneal {a:.4g}, trl {b:.4g}, ratio {a / b:.3f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--trl"]:
        trl(sys.argv[2], sys.argv[3])
    elif len(sys.argv) < 2:
        sys.exit(__doc__)
    else:
        main()
