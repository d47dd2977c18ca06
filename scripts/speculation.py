#!/usr/bin/env python3
"""What guessing gives: answers to three kinds of prompt with guesses and without, in turn.

    python scripts/speculation.py PROGRAM [--rounds 5] [-n 160] [FLAGS OF thermocline run, such as -m MODEL -md DRAFT]

Prints the median speed of each way and of the ratio of neighbours, with how many guesses were right. Both ways have to give
the same text, or it fails.
"""

import argparse
import re
import statistics
import subprocess
import sys

CODE = """Rename the variable total to sum in this function and write the whole function again.

def area(rows):
    total = 0
    for row in rows:
        for cell in row:
            total = total + cell.width * cell.height
    return total

def area(rows):
    sum = 0
    for row in rows:
        for cell in row:
            sum = sum +"""
STORY = "Tell a long story about a small boat that is lost in the fog, and about the lighthouse that finds it."
JSON = """[{"name": "Ada", "born": 1815, "field": "mathematics", "alive": false},
 {"name": "Alan", "born": 1912, "field": "mathematics", "alive": false},
 {"name": "Grace", "born": 1906, "field": "computing", "alive": false},
 {"name":"""


def run(program, prompt, length, flags, guesses):
    command = [program, "run", "--prompt", prompt, "-n", str(length), "--seed", "1", *flags]
    done = subprocess.run([*command, "--draft-max", str(guesses)], capture_output=True, text=True)
    speed = re.search(r"answer [\d,]+ tokens, ([\d.]+) tok/s", done.stderr)
    if done.returncode or not speed:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    right = re.search(r"([\d,]+) of ([\d,]+) guesses right", done.stderr)
    return float(speed[1]), done.stdout, right[0] if right else "nothing guessed"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-n", type=int, default=160)
    parser.add_argument("--draft-max", type=int, default=16)
    arguments, flags = parser.parse_known_args()
    for name, prompt, more in [("code", CODE, ["--raw"]), ("story", STORY, []), ("json", JSON, ["--raw"])]:
        plain, guessing, ratios, said = [], [], [], ""
        for _ in range(arguments.rounds):
            alone, text, _ = run(arguments.program, prompt, arguments.n, flags + more, 0)
            with_guesses, same, said = run(arguments.program, prompt, arguments.n, flags + more, arguments.draft_max)
            if text != same:
                sys.exit(f"{name}: guesses changed the answer")
            plain.append(alone)
            guessing.append(with_guesses)
            ratios.append(with_guesses / alone)
        middle = statistics.median
        print(
            f"{name:6} without {middle(plain):8.1f} tok/s, with {middle(guessing):8.1f}, ratio {middle(ratios):.2f} "
            f"[{min(ratios):.2f} .. {max(ratios):.2f}], {said}",
            flush=True,
        )


main()
