#!/usr/bin/env python3
"""Verdicts a second per core, of `anneal verify` and of math-verify, on the same pairs in one run.

    pip install math-verify==0.9.0
    cargo build --release -p cli
    python3 benches/verify.py [PAIRS.jsonl] [--rounds 3]

Both run on one thread, in turn (A B A B …). math-verify's figure leaves out Python's start and its imports; anneal's holds
its process's start, reading and printing. Prints each round, the medians and their ratio, and how many verdicts agree.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import time
from pathlib import Path

from math_verify import parse, verify

ROOT = Path(__file__).resolve().parent.parent


def run_anneal(binary, path):
    start = time.perf_counter()
    environment = {**os.environ, "RAYON_NUM_THREADS": "1"}
    done = subprocess.run(
        [binary, "verify", "--input", path], capture_output=True, check=True, text=True, env=environment
    )
    seconds = time.perf_counter() - start
    return seconds, [json.loads(line)["correct"] for line in done.stdout.splitlines()]


def run_math_verify(pairs):
    start = time.perf_counter()
    verdicts = [bool(verify(parse(pair["gold"]), parse(pair["pred"]))) for pair in pairs]
    return time.perf_counter() - start, verdicts


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("pairs", nargs="?", default=ROOT / "tests/data/verify/math_pairs.jsonl")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--binary", default=ROOT / "target/release/anneal")
    given = arguments.parse_args()
    logging.disable(logging.CRITICAL)
    pairs = [json.loads(line) for line in Path(given.pairs).read_text().splitlines()]
    ours, theirs = [], []
    for index in range(given.rounds):
        seconds, anneal = run_anneal(given.binary, given.pairs)
        ours.append(len(pairs) / seconds)
        seconds, reference = run_math_verify(pairs)
        theirs.append(len(pairs) / seconds)
        print(f"round {index + 1}: anneal {ours[-1]:.0f}, math-verify {theirs[-1]:.0f} verdicts/s")
    ratio = statistics.median(ours) / statistics.median(theirs)
    agree = sum(a == b for a, b in zip(anneal, reference))
    print(f"medians: {statistics.median(ours):.0f} and {statistics.median(theirs):.0f}, ratio {ratio:.0f}")
    print(f"agreement: {agree} of {len(pairs)}")


if __name__ == "__main__":
    main()
