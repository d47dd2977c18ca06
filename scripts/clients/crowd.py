"""A crowd at the server's door: most ask and read, a tenth read slowly, a tenth leave early, a tenth send garbage.

    thermocline serve --port 8080 &
    python scripts/clients/crowd.py http://127.0.0.1:8080 --seconds 600

Every answer is held against the one given to the same question and seed when nobody else was there. Prints figures and
fails where an answer differs, something breaks, memory grows, or the 65th waits for its 429. Needs Python only.
"""
import argparse
import asyncio
import collections
import json
import random
import time
import urllib.parse

QUESTIONS = [
    "Tell me a story about a fox.",
    "Tell me a story about a lighthouse.",
    "What is 48 + 37?",
    "Give me JSON for a brown dog named Max, age 7.",
    "Write a Python function that adds two numbers.",
    "Расскажи сказку о волке.",
    "Who are you?",
    "What is the capital of Italy?",
]


def body(number, stream, **more):
    """Question `number` of the 64 there are; a quarter of them without a temperature."""
    return {
        "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
        "seed": number,
        "temperature": 0 if number % 4 == 0 else 1.1,
        "max_tokens": 60,
        "stream": stream,
        **more,
    }


class Door:
    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname, parts.port

    async def send(self, payload):
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=1 << 20)
        writer.write(payload)
        await writer.drain()
        return reader, writer

    def request(self, method, path, content=None):
        data = b"" if content is None else json.dumps(content).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        return head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data

    async def ask(self, content, slow=False, leave_after=None):
        """Status and text; None for the text of whoever left."""
        reader, writer = await self.send(self.request("POST", "/v1/chat/completions", content))
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            status = int(head.split(" ")[1])
            raw = b""
            while piece := await reader.read(64 if slow else 65536):
                raw += piece
                if leave_after and len(raw) > leave_after:
                    return status, None
                if slow:
                    await asyncio.sleep(0.005)
        finally:
            writer.close()
        if "transfer-encoding: chunked" in head.lower():
            raw = unchunked(raw)
        return status, text(raw.decode(), content["stream"]) if status == 200 else raw.decode()

    async def page(self, path):
        reader, writer = await self.send(self.request("GET", path))
        raw = await reader.read()
        writer.close()
        return raw.decode().split("\r\n\r\n", 1)[1]

    async def metric(self, name):
        lines = (await self.page("/metrics")).splitlines()
        return next(float(line.split(" ")[1]) for line in lines if line.startswith(f"thermocline_{name} "))


def unchunked(raw):
    out = b""
    while raw:
        size, raw = raw.split(b"\r\n", 1)
        size = int(size, 16)
        if size == 0:
            break
        out, raw = out + raw[:size], raw[size + 2 :]
    return out


def text(raw, stream):
    if not stream:
        return json.loads(raw)["choices"][0]["message"]["content"]
    events = [event[6:] for event in raw.split("\n\n") if event.startswith("data: ")]
    assert events[-1] == "[DONE]", raw[-300:]
    said = [choice["delta"].get("content", "") for event in events[:-1] for choice in json.loads(event)["choices"]]
    return "".join(said)


async def client(door, number, until, alone, seen, delays):
    rng = random.Random(number)
    kind = {0: "slow", 1: "leaves", 2: "garbage"}.get(number % 10, "asks")
    while time.monotonic() < until:
        which = rng.randrange(64)
        try:
            if kind == "garbage":
                junk = rng.choice([rng.randbytes(300), b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                    b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{\"oops\":}", b"GET /\r\n\r\n"])
                reader, writer = await door.send(junk)
                await asyncio.wait_for(reader.read(100), 1)
                writer.close()
                seen["garbage sent"] += 1
                continue
            started = time.monotonic()
            leave = rng.randrange(1, 3000) if kind == "leaves" else None
            status, said = await door.ask(body(which, rng.random() < 0.6 or kind != "asks"), kind == "slow", leave)
            seen[f"status {status}"] += 1
            if status == 200 and said is None:
                seen["left early"] += 1
            elif status == 200:
                delays.append(time.monotonic() - started)
                seen["answers compared"] += 1
                seen["answers that differ"] += said != alone[which]
            elif status == 429:
                await asyncio.sleep(0.05)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.TimeoutError) as e:
            seen["garbage sent" if kind == "garbage" else f"broken: {type(e).__name__}"] += 1


async def sixty_fifth(door):
    """Fills every place, then asks once more."""
    places = int(await door.metric("queue_places"))
    endless = body(1, True, max_tokens=None, logit_bias={"1021": -100, "1023": -100}, n=1)
    open_ones = [await door.send(door.request("POST", "/v1/chat/completions", endless)) for _ in range(places)]
    waits = []
    for _ in range(20):
        started = time.monotonic()
        status, _ = await door.ask(body(2, False))
        if status == 429:
            waits.append(time.monotonic() - started)
    for _, writer in open_ones:
        writer.close()
    return waits


async def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("url")
    arguments.add_argument("--seconds", type=float, default=600)
    arguments.add_argument("--clients", type=int, default=64)
    arguments = arguments.parse_args()
    door = Door(arguments.url)
    alone = [(await door.ask(body(number, False)))[1] for number in range(64)]
    seen, delays, resident = collections.Counter(), [], []
    started = time.monotonic()
    until = started + arguments.seconds
    crowd = [asyncio.create_task(client(door, i, until, alone, seen, delays)) for i in range(arguments.clients)]
    while time.monotonic() < until:
        await asyncio.sleep(min(5, arguments.seconds / 10))
        resident.append(await door.metric("resident_bytes"))
    await asyncio.gather(*crowd)
    waits = await sixty_fifth(door)
    await asyncio.sleep(1)
    left = await door.metric("queue_places_taken")

    delays.sort()
    half = resident[len(resident) // 2 :]
    print(f"{arguments.clients} clients, {time.monotonic() - started:.0f} s")
    for name, count in sorted(seen.items()):
        print(f"  {name}: {count}")
    print(f"  answers: median {delays[len(delays) // 2]:.3f} s, 99 % within {delays[int(len(delays) * 0.99)]:.3f} s")
    print(f"  resident: {resident[0] / 1e6:.1f} MB at first, {half[0] / 1e6:.1f} MB at half time, {resident[-1] / 1e6:.1f} MB at the end")
    print(f"  one too many: {len(waits)} of 20 turned away, the slowest after {max(waits, default=0) * 1000:.1f} ms")
    print(f"  places taken afterwards: {left:.0f}")
    broken = sum(count for name, count in seen.items() if name.startswith(("broken", "status 5", "status 4")) and name != "status 429")
    sound = not seen["answers that differ"] and not broken and left == 0 and waits and max(waits) < 0.1
    flat = resident[-1] < half[0] * 1.05 + 4e6
    print("sound" if sound and flat else "NOT SOUND")
    raise SystemExit(not (sound and flat))


asyncio.run(main())
