#!/usr/bin/env python3
"""How long a newcomer waits for its first token while others' answers are written.

    thermocline serve -m MODEL -np 8 &
    python scripts/clients/newcomer.py http://127.0.0.1:8080 [--streams 7] [--newcomers 10] [--words 150]

Keeps streams busy, lets newcomers in one after the other, and holds the wait of each against two steps of the streams (the
median time between their tokens) and the time its own prompt took (`timings.prompt_ms`). Fails where the median is above.
"""

import argparse
import http.client
import json
import random
import statistics
import sys
import threading
import time
import urllib.parse


def stream(address, body, heard):
    """Calls heard(seconds since the start, event) for each event, until it answers False."""
    connection = http.client.HTTPConnection(address, timeout=120)
    started = time.monotonic()
    connection.request("POST", "/v1/completions", json.dumps(body | {"stream": True}), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        sys.exit(f"{response.status}: {response.read().decode()}")
    for line in response:
        if line.startswith(b"data: {") and heard(time.monotonic() - started, json.loads(line[6:])) is False:
            break
    connection.close()


def ask(address, path, body):
    connection = http.client.HTTPConnection(address, timeout=120)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    return json.loads(connection.getresponse().read())


def words(count):
    return " ".join(random.choice(["sea", "fog", "ship", "light", "rope", "wind", "salt", "sand"]) for _ in range(count))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("--streams", type=int, default=7)
    parser.add_argument("--newcomers", type=int, default=10)
    parser.add_argument("--words", type=int, default=150)
    arguments = parser.parse_args()
    address = urllib.parse.urlparse(arguments.address).netloc
    letter = ask(address, "/tokenize", {"content": "a"})["tokens"][0]
    over, last, gaps = threading.Event(), {}, []

    def keep_busy(number):
        while not over.is_set():
            last.pop(number, None)

            def heard(at, event):
                if number in last:
                    gaps.append(at - last[number])
                last[number] = at
                return not over.is_set()

            stream(address, {"prompt": words(20), "max_tokens": 2000, "temperature": 1.0, "ignore_eos": True}, heard)

    threads = [threading.Thread(target=keep_busy, args=(n,), daemon=True) for n in range(arguments.streams)]
    for thread in threads:
        thread.start()
    while len(gaps) < 20 * arguments.streams:
        time.sleep(0.05)
    ratios = []
    for _ in range(arguments.newcomers):
        gaps.clear()
        time.sleep(1)
        step, found = statistics.median(gaps), {}

        def heard(at, event):
            if any(choice["text"] for choice in event["choices"]):
                found.setdefault("wait", at)
            if "timings" in event:
                found.update(prompt=event["timings"]["prompt_ms"] / 1e3, tokens=event["timings"]["prompt_n"])

        # One that is a character: of half a character nothing can be shown, and what is waited for is the first token.
        stream(address, {"prompt": words(arguments.words), "max_tokens": 4, "logit_bias": {letter: 100}}, heard)
        allowed = 2 * step + found["prompt"]
        ratios.append(found["wait"] / allowed)
        print(
            f"{found['tokens']} tokens of prompt: first token after {found['wait'] * 1e3:.0f} ms; two steps of "
            f"{step * 1e3:.0f} ms and {found['prompt'] * 1e3:.0f} ms for the prompt allow {allowed * 1e3:.0f}",
            flush=True,
        )
    over.set()
    print(f"wait / allowed: median {statistics.median(ratios):.2f}, worst {max(ratios):.2f}")
    sys.exit(statistics.median(ratios) > 1)


main()
