"""Random JSON schemas, an answer held to each, and each answer that ends with `stop` checked against its schema.

    python scripts/clients/schemas.py http://127.0.0.1:8080 --count 1000

Needs `openai` and `jsonschema`. Ends with 0 if every answer that ended with `stop` is valid, at least 95 % ended so within
512 tokens, and every schema with a feature that is not supported was refused by its name.
"""

import argparse
import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import openai

WORDS = ["name", "age", "city", "colour", "tags", "items", "price", "id", "active", "note", "owner", "size", "parent"]
# Features llguidance does not have: a request with one is a 400 that names it.
MISSING = {
    "uniqueItems": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
    "contains": {"type": "array", "contains": {"type": "integer"}},
    "not": {"not": {"type": "string"}},
    "if": {"if": {"type": "object"}, "then": {"required": ["a"]}},
    "dependentRequired": {"type": "object", "dependentRequired": {"a": ["b"]}},
    "propertyNames": {"type": "object", "propertyNames": {"pattern": "^a"}},
    "unevaluatedProperties": {"type": "object", "unevaluatedProperties": False},
}


def string(r):
    kind = r.randrange(6)
    if kind == 0:
        return {"type": "string", "enum": r.sample(["red", "green", "blue", "a \"quoted\" one", "naïve", "🦙", ""], r.randint(1, 5))}
    if kind == 1:
        least = r.randint(0, 8)
        return {"type": "string", "minLength": least, "maxLength": least + r.randint(0, 20)}
    if kind == 2:
        return {"type": "string", "pattern": r.choice(["^[a-z]{2,8}$", "^[A-Z]{3}-[0-9]{4}$", "^(yes|no)$", "[0-9]{3}", "^\\d+(\\.\\d+)?$"])}
    if kind == 3:
        return {"type": "string", "format": r.choice(["date", "date-time", "time", "uuid", "ipv4", "email"])}
    if kind == 4:
        return {"type": "string", "minLength": r.randint(1, 12)}
    return {"type": "string"}


def number(r):
    schema = {"type": r.choice(["integer", "number"])}
    if r.random() < 0.5:
        schema["minimum"] = r.randint(-100, 50)
    if r.random() < 0.5:
        schema["maximum"] = r.randint(51, 1000)
    if schema["type"] == "integer" and r.random() < 0.2:
        schema["multipleOf"] = r.choice([2, 5, 10])
    return schema


def array(r, depth):
    schema = {"type": "array", "items": value(r, depth - 1)}
    if r.random() < 0.6:
        schema["minItems"] = r.randint(0, 3)
    if r.random() < 0.6:
        schema["maxItems"] = schema.get("minItems", 0) + r.randint(0, 4)
    if r.random() < 0.15:
        schema["prefixItems"] = [value(r, 0), value(r, 0)]
    return schema


def object_(r, depth):
    names = r.sample(WORDS, r.randint(0, 5))
    schema = {"type": "object", "properties": {name: value(r, depth - 1) for name in names}}
    schema["required"] = [name for name in names if r.random() < 0.7]
    kind = r.random()
    if kind < 0.6:
        schema["additionalProperties"] = False
    elif kind < 0.75:
        schema["additionalProperties"] = value(r, 0)
    if r.random() < 0.1:
        schema["patternProperties"] = {"^x_[a-z]+$": value(r, 0)}
    return schema


def value(r, depth):
    if depth <= 0:
        return r.choice([string, string, number, lambda r: {"type": "boolean"}, lambda r: {"type": "null"},
                         lambda r: {"const": r.choice([1, "x", None, [1, 2], {"a": True}])},
                         lambda r: {"enum": r.sample([1, 2.5, "x", None, True, [], {}], 3)},
                         lambda r: {"type": ["string", "null"]}])(r)
    kind = r.random()
    if kind < 0.45:
        return object_(r, depth)
    if kind < 0.65:
        return array(r, depth)
    if kind < 0.75:
        return {"anyOf": [value(r, depth - 1), value(r, 0)]}
    if kind < 0.8:
        return {"allOf": [{"type": "object", "properties": {"a": value(r, 0)}, "required": ["a"]},
                          {"type": "object", "properties": {"b": value(r, 0)}}]}
    if kind < 0.83:
        return {"oneOf": [{"type": "integer"}, {"type": "string", "maxLength": 10}]}
    return value(r, 0)


def schema(r):
    """The schema of a whole answer."""
    kind = r.random()
    if kind < 0.08:  # a tree
        node = {"type": "object", "additionalProperties": False, "required": ["value"],
                "properties": {"value": value(r, 0), "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}
        return {"$ref": "#/$defs/node", "$defs": {"node": node}}
    if kind < 0.16:
        return {"type": "object", "properties": {"a": {"$ref": "#/$defs/thing"}, "b": {"$ref": "#/$defs/thing"}},
                "required": ["a"], "additionalProperties": False, "$defs": {"thing": value(r, 1)}}
    return object_(r, r.randint(1, 3)) if kind < 0.8 else value(r, 2)


def ask(client, shape, seed, temperature):
    return client.chat.completions.create(
        model="bundled",
        messages=[{"role": "user", "content": "Give me an example as JSON."}],
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": shape}},
        max_tokens=512, seed=seed, temperature=temperature, stream=False)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("url")
    arguments.add_argument("--count", type=int, default=1000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--temperature", type=float, default=0.6)
    arguments.add_argument("--show", type=int, default=0, help="print so many of the answers that did not end")
    given = arguments.parse_args()
    client = openai.OpenAI(base_url=given.url.rstrip("/") + "/v1", api_key="none", timeout=300, max_retries=8)

    def one(seed):
        shape = schema(random.Random(seed))
        try:
            answer = ask(client, shape, seed, given.temperature)
        except openai.BadRequestError as e:
            return "refused", shape, str(e)
        choice = answer.choices[0]
        text, cost = choice.message.content, answer.usage.completion_tokens
        if choice.finish_reason != "stop":
            return "length", shape, text
        try:
            jsonschema.validate(json.loads(text), shape, cls=jsonschema.Draft202012Validator)
        except Exception as e:  # what it is does not matter, the answer is wrong
            return "invalid", shape, f"{text}: {e}"
        return ("stop" if cost <= 512 else "length"), shape, text

    started = time.time()
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(one, range(given.seed * 1_000_000, given.seed * 1_000_000 + given.count)))
    count = {kind: sum(1 for outcome in outcomes if outcome[0] == kind) for kind in ["stop", "length", "invalid", "refused"]}
    for kind, shown in [("invalid", 5), ("refused", 10), ("length", given.show)]:
        for _, shape, text in [outcome for outcome in outcomes if outcome[0] == kind][:shown]:
            print(f"{kind}: {json.dumps(shape)}\n    {text[:600]}")
    unnamed = 0
    for name, shape in MISSING.items():
        try:
            ask(client, shape, 1, 0.6)
            print(f"not refused: {name}")
            unnamed += 1
        except openai.BadRequestError as e:
            if name not in str(e):
                print(f"refused without its name: {name}: {e}")
                unnamed += 1
    asked = given.count - count["refused"]
    share = 100 * count["stop"] / max(asked, 1)
    print(f"{given.count} schemas in {time.time() - started:.0f} s: {count['stop']} valid and ended with stop ({share:.1f} %), "
          f"{count['length']} not ended, {count['invalid']} invalid, {count['refused']} refused; "
          f"{len(MISSING) - unnamed} of {len(MISSING)} features that are missing refused by name")
    sys.exit(0 if count["invalid"] == 0 and share >= 95 and unnamed == 0 and count["refused"] == 0 else 1)


main()
