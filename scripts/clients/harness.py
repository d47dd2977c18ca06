#!/usr/bin/env python3
"""EleutherAI's evaluation harness against a server of the bundled model: sums to choose by likelihood, the same to be answered,
and the perplexity of a text, which must agree with what the server says of its tokens.

    pip install "lm_eval[api]" transformers && python scripts/clients/harness.py http://127.0.0.1:8080
"""

import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

TEXT = "Once upon a time there was a little fox. The fox lived in a forest with a small bear."
CHAT = "<|im_start|>user\\n{{question}}<|im_end|>\\n<|im_start|>assistant\\n"
TASK = """
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
target_delimiter: ""
"""


def write_tasks(folder):
    draw = random.Random(1)
    rows = []
    for _ in range(40):
        a, b = draw.randint(1, 9), draw.randint(1, 9)
        choices = [a + b, a + b + 1, a + b + 2, a + b + 3]
        draw.shuffle(choices)
        gold = choices.index(a + b)
        rows.append({"question": f"What is {a} + {b}?", "choices": [f"{a} + {b} = {c}." for c in choices], "gold": gold})
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "text.jsonl").write_text(json.dumps({"text": TEXT}))
    sums = TASK % (folder / "sums.jsonl") + f'doc_to_text: "{CHAT}"\n'
    chosen = 'task: chosen\noutput_type: multiple_choice\ndoc_to_choice: "{{choices}}"\ndoc_to_target: gold\n'
    (folder / "chosen.yaml").write_text(chosen + sums + "metric_list: [{metric: acc}]\n")
    written = 'task: written\noutput_type: generate_until\ndoc_to_target: "{{choices[gold]}}"\n'
    until = 'generation_kwargs: {until: ["<|im_end|>"], max_gen_toks: 20, do_sample: false, temperature: 0}\n'
    (folder / "written.yaml").write_text(written + sums + until + "metric_list: [{metric: exact_match}]\n")
    told = 'task: told\noutput_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
    (folder / "told.yaml").write_text(told + TASK % (folder / "text.jsonl") + "metric_list: [{metric: byte_perplexity}]\n")


def own_perplexity(url, first):
    """Of the text after the token `first`, as the server says it."""
    body = {"prompt": first + TEXT, "echo": True, "logprobs": 0, "max_tokens": 0}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    logprobs = json.load(urllib.request.urlopen(request))["choices"][0]["logprobs"]["token_logprobs"]
    return math.exp(-sum(logprobs[1:]) / len(TEXT.encode()))


def main():
    url = sys.argv[1].rstrip("/")
    model = json.load(urllib.request.urlopen(f"{url}/v1/models"))["data"][0]["id"]
    tokenizer = Path(__file__).parents[2] / "assets/tiny"
    with tempfile.TemporaryDirectory() as folder:
        write_tasks(Path(folder))
        # fmt: off
        command = [
            "lm_eval", "run", "--model", "local-completions", "--tasks", "chosen,written,told", "--include_path", folder,
            "--model_args", f"model={model},base_url={url}/v1/completions,num_concurrent=4,max_length=512,"
            f"tokenizer_backend=huggingface,tokenizer={tokenizer}",
        ]
        # fmt: on
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": folder}
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(run.stderr)
    table = run.stdout
    print(table)
    found = {name: float(value) for name, value in re.findall(r"\|(\w+) *\|.*?\|(?:↑|↓) *\| *([0-9.]+)\|", table)}
    eos = json.loads((tokenizer / "tokenizer_config.json").read_text())["eos_token"]
    expected = {"chosen": 1.0, "written": 1.0, "told": own_perplexity(url, eos if isinstance(eos, str) else eos["content"])}
    for name, value in expected.items():
        good = abs(found[name] - value) <= 1e-3 * value
        print(f"{'ok' if good else 'FAILED'}: {name} {found[name]}, expected {value:.4f}")
        if not good:
            sys.exit(1)


if __name__ == "__main__":
    main()
