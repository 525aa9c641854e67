#!/usr/bin/env python3
"""Instructions that a repetition of each hot loop takes, counted by valgrind, against those of benches/instructions.json.

usage: instructions.py [--write]      exit 1 where a count has grown by more than 3 %
needs: valgrind

Counts do not depend on the machine's speed or load. valgrind has no AVX-512, so it is the AVX2 forms that are counted.
"""

import json
import os
import re
import subprocess
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
FILE = os.path.join(ROOT, "benches", "instructions.json")
ALLOWED = 1.03


def executable():
    command = ["cargo", "bench", "--locked", "--workspace", "--bench", "instructions", "--no-run", "--message-format=json"]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    messages = [json.loads(line) for line in output.splitlines()]
    return next(m["executable"] for m in messages if m.get("target", {}).get("name") == "instructions" and m.get("executable"))


def count(program, name, repetitions):
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, name, str(repetitions)]
    output = subprocess.run(command, env={**os.environ, "RAYON_NUM_THREADS": "1"}, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", output.stderr)
    if output.returncode != 0 or not found:
        sys.exit(f"{name}: {output.stderr[-1000:]}")
    return int(found[1])


def main():
    program = executable()
    names = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    # What is done once, the setting up, is in both counts.
    counts = {name: (count(program, name, 3) - count(program, name, 1)) // 2 for name in names}
    if sys.argv[1:] == ["--write"]:
        with open(FILE, "w") as file:
            json.dump(counts, file, indent=2)
            file.write("\n")
    with open(FILE) as file:
        kept = json.load(file)
    grown = 0
    for name, found in counts.items():
        ratio = found / kept[name] if name in kept else float("inf")
        grown += ratio > ALLOWED
        print(f"{name:<22} {found:>12,}  {ratio:.3f} of what is kept{'  GROWN' if ratio > ALLOWED else ''}")
    sys.exit(1 if grown else 0)


if __name__ == "__main__":
    main()
