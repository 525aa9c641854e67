"""Writes the golden values of tests/tests/parity.rs: transformers and torch in float64.

    python3 tests/data/parity/make.py        # needs torch, transformers and peft

For a few unequal sequences on each tiny model: log-probabilities and entropies of the response tokens, PPO's clipped
loss over them, and its gradient, of which each parameter's norm and one projection are kept. The same of some models with
PEFT's adapters, which are saved beside the figures.
"""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
MODELS = HERE.parent / "models"
FOLDERS = ["llama-tied", "llama3-rope-scaled", "mistral-sliding", "qwen2-sharded", "qwen3"]
ADAPTED = ["llama-tied", "qwen2-sharded", "qwen3"]
TEMPERATURE = 0.7
SINGLE = torch.float32
CLIP = 0.2


def sequences(vocab):
    # None of the first ids, which are special: transformers gives a padding id's embedding no gradient.
    ids = lambda seed, count: [8 + (seed * 7 + i * i * 3 + i) % (vocab - 8) for i in range(count)]
    prompts = [ids(1, 9), ids(2, 2), ids(3, 21)]
    sizes = [(0, 5), (0, 1), (0, 13), (1, 24), (2, 3), (2, 17)]
    return [(prompts[prompt], ids(seed, length)) for seed, (prompt, length) in enumerate(sizes)]


def golden(model):
    """All figures of a model in float64, and the gradients of what it trains."""
    double = torch.float64
    log_probs, entropies, entropies_at_temperature, old, advantages = [], [], [], [], []
    batch = sequences(model.config.vocab_size)
    terms, count = 0.0, 0
    for row, (prompt, response) in enumerate(batch):
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        assert logits.dtype == double
        scaled = torch.log_softmax(logits / TEMPERATURE, -1)
        plain = torch.log_softmax(logits, -1)
        taken = scaled.gather(1, torch.tensor(response)[:, None])[:, 0]
        shift = torch.tensor([((row * 5 + i * 3) % 11 - 5) / 10 for i in range(len(response))], dtype=double)
        # Rounded as float32 holds them, so that every device reads the same inputs.
        before = (taken.detach() + shift).numpy().astype("float32")
        advantage = torch.tensor([((row * 3 + i * 7) % 9 - 4) / 4 for i in range(len(response))], dtype=double)
        ratio = (taken - torch.tensor(before.astype("float64"))).exp()
        clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
        terms = terms + torch.maximum(-advantage * ratio, -advantage * clipped).sum()
        count += len(response)
        log_probs.append(taken.tolist())
        entropies.append((-(plain.exp() * plain).sum(-1)).tolist())
        entropies_at_temperature.append((-(scaled.exp() * scaled).sum(-1)).tolist())
        old.append([float(x) for x in before])
        advantages.append(advantage.tolist())
    loss = terms / count
    loss.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        gradient = parameter.grad.flatten()
        wave = torch.cos(torch.arange(gradient.numel(), dtype=double))
        gradients[name] = {"norm": gradient.norm().item(), "projection": (gradient * wave).sum().item()}
    return {
        "reference": "transformers and torch, float64",
        "temperature": TEMPERATURE,
        "clip": CLIP,
        "prompts": [prompt for prompt, _ in batch],
        "responses": [response for _, response in batch],
        "old_log_probs": old,
        "advantages": advantages,
        "log_probs": log_probs,
        "entropies": entropies,
        "entropies_at_temperature": entropies_at_temperature,
        "loss": loss.item(),
        "gradients": gradients,
    }


def adapted(model, folder):
    """PEFT's adapters, both factors waves, saved as PEFT saves them."""
    targets = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"] if folder == "qwen3" else "all-linear"
    config = LoraConfig(r=3, lora_alpha=4.5, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM")
    model = get_peft_model(model, config, autocast_adapter_dtype=False)
    for seed, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
        wave = 0.05 * torch.sin(torch.arange(parameter.numel(), dtype=torch.double) * 1.7 + seed)
        # As float32 holds them.
        parameter.data = torch.tensor(wave.numpy().astype("float32").astype("float64")).reshape(parameter.shape)
    model.save_pretrained(HERE / f"{folder}-lora")
    for other in ("README.md", "adapter_config.json"):
        (HERE / f"{folder}-lora" / other).unlink()
    weights = HERE / f"{folder}-lora" / "adapter_model.safetensors"
    save_file({name: tensor.to(SINGLE) for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    weights.chmod(0o644)
    return model


def write(name, figures):
    (HERE / f"{name}.json").write_text(json.dumps(figures) + "\n")
    print(name, figures["loss"], len(figures["gradients"]))


def main():
    # Transformers computes norms, angles and softmax in float32 whatever the weights are: here float64 is meant.
    double = torch.float64
    load = lambda f: AutoModelForCausalLM.from_pretrained(MODELS / f, dtype=torch.float32, attn_implementation="eager")
    models = {f: load(f) for f in FOLDERS}
    bases = {f: load(f) for f in ADAPTED}
    torch.float32 = double
    torch.float = double
    torch.Tensor.float = torch.Tensor.double
    for folder, model in models.items():
        write(folder, golden(model.double().train()))
    for folder, model in bases.items():
        write(f"{folder}-lora", golden(adapted(model.double(), folder).train()))


main()
