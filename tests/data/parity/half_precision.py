"""Prints how far torch's own half precision is from the golden values: what tests/tests/parity.rs allows for it.

    python3 tests/data/parity/half_precision.py        # needs torch and transformers; on the CPU

Weights in the type or, for autocast, in f32; logits in f32 of rounded operands, as Anneal has them. The worst difference of
a log-probability in nats, and of a gradient's norm or projection, relative to its norm or to a hundredth of the largest.
"""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
FOLDERS = ["llama-tied", "llama3-rope-scaled", "mistral-sliding", "qwen2-sharded", "qwen3"]


def errors(folder, dtype, autocast):
    golden = json.loads((HERE / f"{folder}.json").read_text())
    stored = torch.float32 if autocast else dtype
    model = AutoModelForCausalLM.from_pretrained(HERE.parent / "models" / folder, dtype=stored, attn_implementation="eager").train()
    terms, count, nats = 0.0, 0, 0.0
    keys = ("prompts", "responses", "old_log_probs", "advantages", "log_probs")
    for prompt, response, old, advantages, expected in zip(*(golden[key] for key in keys)):
        with torch.autocast("cpu", dtype=dtype, enabled=autocast):
            hidden = model.model(torch.tensor([prompt + response])).last_hidden_state
        rounded = [x.to(dtype).float() for x in (hidden, model.lm_head.weight)]
        logits = (rounded[0] @ rounded[1].T)[0, len(prompt) - 1 : -1]
        taken = torch.log_softmax(logits / golden["temperature"], -1).gather(1, torch.tensor(response)[:, None])[:, 0]
        nats = max(nats, (taken.double() - torch.tensor(expected, dtype=torch.double)).abs().max().item())
        ratio, advantages = (taken - torch.tensor(old)).exp(), torch.tensor(advantages)
        clipped = ratio.clamp(1 - golden["clip"], 1 + golden["clip"])
        terms = terms + torch.maximum(-advantages * ratio, -advantages * clipped).sum()
        count += len(response)
    (terms / count).backward()
    largest = max(gradient["norm"] for gradient in golden["gradients"].values())
    worst = (0.0, "")
    for name, parameter in model.named_parameters():
        gradient, expected = parameter.grad.flatten().double(), golden["gradients"][name]
        wave = torch.cos(torch.arange(gradient.numel(), dtype=torch.double))
        scale = max(expected["norm"], 1e-2 * largest)
        for figure, found in (("norm", gradient.norm()), ("projection", (gradient * wave).sum())):
            worst = max(worst, (abs(found.item() - expected[figure]) / scale, f"{figure} of {name}"))
    return nats, worst


for folder in FOLDERS:
    for name, dtype, autocast in (("bf16", torch.bfloat16, False), ("bf16 autocast", torch.bfloat16, True), ("f16", torch.float16, False)):
        nats, (gradient, where) = errors(folder, dtype, autocast)
        print(f"{folder:20} {name:14} {nats:.4f} nats, gradient {gradient:.4f} ({where})")
