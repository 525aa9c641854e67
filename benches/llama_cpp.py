#!/usr/bin/env python3
"""Decoding with llama.cpp, to hold `anneal bench step`'s generation against: 32 sequences at once, prompts of 44 tokens
in 4 groups of 8, 64 new tokens each, greedy, through the low-level API of llama-cpp-python.

usage: llama_cpp.py MODEL.gguf [repeats]
"""

import sys
import time

import llama_cpp as lib

PROMPT, NEW, ROWS, GROUP = 44, 64, 32, 8


def main():
    path, repeats = sys.argv[1], int((sys.argv[2:] + ["2"])[0])
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = ROWS * (PROMPT + NEW), 2048, 512, ROWS
    params.n_threads = params.n_threads_batch = 2
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
