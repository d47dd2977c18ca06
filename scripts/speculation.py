#!/usr/bin/env python3
"""What guessing gives: answers to several kinds of prompt with guesses and without, in turn.

    python scripts/speculation.py PROGRAM [--pairs 100] [-n 400] [--draft-max 16] [--only KIND] [FLAGS OF thermocline serve, such as -m MODEL]

One server is asked the same in turn with guesses from what the text said before (with `-md DRAFT` among the flags, by that
model) and without; which comes first changes with every pair. Prints, for each kind of prompt, the median speeds and the
median ratio with an interval that holds it with 95 %, and how many guesses were right.
Both have to give the same text, or it fails.
"""

import argparse
import http.client
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time

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
STORY = "Once upon a time there was a small boat that was lost in the fog, and a lighthouse"
JSON = """[{"name": "Ada", "born": 1815, "field": "mathematics", "alive": false},
 {"name": "Alan", "born": 1912, "field": "mathematics", "alive": false},
 {"name": "Grace", "born": 1906, "field": "computing", "alive": false},
 {"name":"""
KINDS = [(f"{name}, temperature {heat}", text, heat) for name, text in [("code", CODE), ("story", STORY), ("JSON", JSON)] for heat in (0, 0.6, 1.2)]


class Server:
    def __init__(self, program, flags):
        command = [program, "serve", "--port", "0", *flags]
        log = tempfile.TemporaryFile("w+")  # a pipe that nobody reads would stop the server
        self.process = subprocess.Popen(command, stderr=log, stdout=subprocess.DEVNULL)
        for _ in range(6000):
            time.sleep(0.1)
            log.seek(0)
            port = re.search(r"http://127\.0\.0\.1:(\d+)", log.read())
            if port:
                self.port = int(port[1])
                if self.ask("/health", None).get("status") == "ok":
                    return
            elif self.process.poll() is not None:
                break
        log.seek(0)
        sys.exit(f"{' '.join(command)}: {log.read()}")

    def ask(self, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        method = "GET" if body is None else "POST"
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200 and path != "/health":
            sys.exit(f"{path}: {answer}")
        return answer

    def answer(self, body):
        answer = self.ask("/v1/completions", body)
        return answer["choices"][0]["text"], answer["timings"]


def interval(ratios):
    """Order statistics between which the median lies with 95 %."""
    ratios = sorted(ratios)
    reach = 0.98 * math.sqrt(len(ratios))
    low, high = int(len(ratios) / 2 - reach), math.ceil(len(ratios) / 2 + reach)
    return ratios[max(low, 0)], ratios[min(high, len(ratios) - 1)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("-n", type=int, default=400)
    parser.add_argument("--draft-max", type=int, default=16)
    parser.add_argument("--only", default="", help="kinds of prompt whose name holds this")
    arguments, flags = parser.parse_known_args()
    server = Server(arguments.program, ["--draft-max", str(arguments.draft_max), *flags])
    try:
        # Answers are to be long: what ends one is made impossible.
        ends = [server.ask("/tokenize", {"content": end})["tokens"] for end in ("<|im_end|>", "<|endoftext|>")]
        bias = {str(end[0]): -100 for end in ends if len(end) == 1}
        for name, prompt, heat in (kind for kind in KINDS if arguments.only in kind[0]):
            ratios, speeds, made, right = [], ([], []), 0, 0
            body = {"prompt": prompt, "max_tokens": arguments.n, "temperature": heat, "logit_bias": bias}
            for pair in range(arguments.pairs + 2):
                body["seed"] = pair % 10
                answers = [None, None]
                for guess in (0, 1) if pair % 2 else (1, 0):
                    answers[guess] = server.answer(body | {"speculative.n_max": guess * arguments.draft_max})
                (text, plain), (same, guessing) = answers
                if text != same:
                    sys.exit(f"{name}, seed {body['seed']}: guesses changed the answer")
                if pair < 2:
                    continue  # only to get warm
                ratios.append(plain["predicted_ms"] / guessing["predicted_ms"])
                for speed, timings in zip(speeds, (plain, guessing)):
                    speed.append(timings["predicted_per_second"])
                made += guessing["draft_n"]
                right += guessing["draft_n_accepted"]
            low, high = interval(ratios)
            without, with_guesses = map(statistics.median, speeds)
            print(
                f"{name:22} without {without:8.1f} tok/s, with {with_guesses:8.1f}, "
                f"ratio {statistics.median(ratios):.3f} [{low:.3f} .. {high:.3f}], {right} of {made} guesses right",
                flush=True,
            )
    finally:
        server.process.terminate()


main()
