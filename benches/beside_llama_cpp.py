#!/usr/bin/env python3
"""Decoding with llama.cpp, to hold `anneal bench step`'s generation against: 32 sequences at once, prompts of 44 tokens
in 4 groups of 8, 64 new tokens each, greedy, through the low-level API of llama-cpp-python.

usage: beside_llama_cpp.py MODEL_DIR [float32|bfloat16|q8_0] [repeats]      a Hugging Face folder of the llama family
needs: pip install llama-cpp-python gguf torch safetensors
"""

import json
import os
import sys
import tempfile
import time

import gguf
import llama_cpp as lib
from safetensors.torch import load_file

PROMPT, NEW, ROWS, GROUP = 44, 64, 32, 8


def convert(folder, dtype, path):
    """Writes the weights alone as GGUF: there is no vocabulary in it, since token ids are all that decoding needs."""
    config = json.load(open(os.path.join(folder, "config.json")))
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    types = gguf.GGMLQuantizationType
    kind = {"float32": types.F32, "bfloat16": types.BF16, "q8_0": types.Q8_0}[dtype]
    for name, tensor in load_file(os.path.join(folder, "model.safetensors")).items():
        # GGUF's llama rotates neighbouring pairs, Hugging Face's the two halves of a head.
        for part, count in (("q_proj", heads), ("k_proj", groups)):
            if part in name:
                tensor = tensor.unflatten(0, (count, 2, -1)).transpose(1, 2).reshape(tensor.shape)
        values = tensor.float().numpy()
        target = kind if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        name = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(name, gguf.quants.quantize(values, target), raw_dtype=target)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    folder, dtype, repeats = (sys.argv[1:] + [None, "float32", "2"][len(sys.argv[1:]):])[:3]
    with tempfile.TemporaryDirectory() as temporary:
        path = os.path.join(temporary, "model.gguf")
        convert(folder, dtype, path)
        measure(path, int(repeats))


def measure(path, repeats):
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = ROWS * (PROMPT + NEW), 2048, 512, ROWS
    params.n_threads = params.n_threads_batch = 2
    params.kv_unified = True  # a prompt's cells are those of all its rows
    for _ in range(repeats):
        context = lib.llama_init_from_model(model, params)
        batch = lib.llama_batch_init(2048, 0, ROWS)
        start = time.perf_counter()
        batch.n_tokens = 0
        for group in range(ROWS // GROUP):
            for place in range(PROMPT):
                put(batch, 100 + 37 * group + place, place, range(group * GROUP, (group + 1) * GROUP), place == PROMPT - 1)
        assert lib.llama_decode(context, batch) == 0
        prompt_seconds = time.perf_counter() - start
        for step in range(NEW):
            batch.n_tokens = 0
            for row in range(ROWS):
                put(batch, 200 + (31 * row + 7 * step) % 1000, PROMPT + step, [row], True)
            assert lib.llama_decode(context, batch) == 0
        seconds = time.perf_counter() - start
        tokens = ROWS * NEW
        print(f"{tokens / seconds:.1f} tokens/s, {tokens / (seconds - prompt_seconds):.1f} while decoding")
        lib.llama_free(context)


def put(batch, token, position, rows, wants_logits):
    at = batch.n_tokens
    batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, position, len(rows)
    for index, row in enumerate(rows):
        batch.seq_id[at][index] = row
    batch.logits[at] = int(wants_logits)
    batch.n_tokens = at + 1


if __name__ == "__main__":
    sys.exit(__doc__) if len(sys.argv) < 2 else main()
