"""A crowd at the server's door: most ask and read, a tenth read slowly, a tenth leave early, a tenth send garbage.

    thermocline serve --port 8080 &
    python scripts/clients/crowd.py http://127.0.0.1:8080 --seconds 600

Every answer is held against the one given to the same question and seed when nobody else was there, and of those who leave
early what they had read. Then every place is taken and one more knocks, from a process of its own. Prints figures, and
fails where an answer differs, something breaks, memory grows or a 429 takes 100 ms. Needs Python only.
"""
import argparse
import asyncio
import collections
import json
import random
import socket
import statistics
import subprocess
import sys
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
# Times one too many knocks, and seconds a 429 may take.
KNOCKS, PATIENCE = 40, 0.1
# What a window of a slow reader holds: more has to wait at the server.
SLOW_WINDOW = 4096


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


def endless(stream=True):
    """An answer that is written until the context is full."""
    return body(1, stream, max_tokens=None, logit_bias={"1021": -100, "1023": -100})


def request(method, path, content=None):
    data = b"" if content is None else json.dumps(content).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data


class Door:
    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname, parts.port

    async def send(self, payload, window=None):
        if window is None:
            reader, writer = await asyncio.open_connection(self.host, self.port, limit=1 << 20)
        else:
            family = socket.getaddrinfo(self.host, self.port)[0][0]
            line = socket.socket(family, socket.SOCK_STREAM)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            line.setblocking(False)
            await asyncio.get_running_loop().sock_connect(line, (self.host, self.port))
            reader, writer = await asyncio.open_connection(sock=line, limit=window)
        writer.write(payload)
        await writer.drain()
        return reader, writer

    async def ask(self, content, slow=False, leave_after=None):
        """Status, text, and whether it is all of it: whoever leaves has read a beginning."""
        reader, writer = await self.send(request("POST", "/v1/chat/completions", content), SLOW_WINDOW if slow else None)
        left = False
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            status = int(head.split(" ")[1])
            raw = b""
            while piece := await reader.read(64 if slow else 65536):
                raw += piece
                if leave_after and len(raw) > leave_after:
                    left = True
                    break
                if slow:
                    await asyncio.sleep(0.005)
        finally:
            writer.close()
        if "transfer-encoding: chunked" in head.lower():
            raw = unchunked(raw)
        if status != 200:
            return status, raw.decode(), True
        return status, text(raw, content["stream"], left), not left

    async def page(self, path):
        reader, writer = await self.send(request("GET", path))
        raw = await reader.read()
        writer.close()
        return raw.decode().split("\r\n\r\n", 1)[1]

    async def metrics(self):
        lines = (await self.page("/metrics")).splitlines()
        pairs = [line.removeprefix("thermocline_").rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return {name: float(value) for name, value in pairs}

    async def metric(self, name):
        return (await self.metrics())[name]


def unchunked(raw):
    """Chunks joined; one that is cut off is taken as far as it came."""
    out = b""
    while b"\r\n" in raw:
        size, raw = raw.split(b"\r\n", 1)
        size = int(size, 16)
        if size == 0:
            break
        out, raw = out + raw[:size], raw[size + 2 :]
    return out


def text(raw, stream, cut):
    if not stream:
        return json.loads(raw)["choices"][0]["message"]["content"]
    events = raw.split(b"\n\n")
    if cut:
        events.pop()
    events = [event[6:] for event in events if event.startswith(b"data: ")]
    if not cut:
        assert events[-1] == b"[DONE]", raw[-300:]
    said = [choice["delta"].get("content", "") for event in events if event != b"[DONE]" for choice in json.loads(event)["choices"]]
    return "".join(said)


def garbage(rng):
    """What no client should send, and whether an HTTP answer to it is a must."""
    post = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    sized = lambda data: post + b"Content-Length: %d\r\n\r\n" % len(data) + data
    return rng.choice([
        (rng.randbytes(300), False),
        (b"GET /\r\n\r\n", False),
        (post + b"Content-Length: 99999\r\n\r\n{\"messages\": [", False),
        (post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: " + b"a" * 70000 + b"\r\n\r\n", False),
        (sized(b"{\"oops\":}"), True),
        (sized(b"[" * 5000), True),
        (sized(b"{\"messages\": \"\xff\xfe\"}"), True),
        (sized(json.dumps({"messages": [{"role": "user", "content": rng.randbytes(40).hex()}], "temperature": "hot"}).encode()), True),
        (sized(json.dumps({"messages": [{"role": "user", "content": "x"}], "grammar": "root ::= " + "(" * 90}).encode()), True),
    ])


async def throw(door, rng, seen):
    """Garbage over the fence; what comes back, if anything, must be a refusal."""
    junk, answered = garbage(rng)
    reader, writer = await door.send(junk)
    seen["garbage sent"] += 1
    try:
        head = await asyncio.wait_for(reader.read(100), 5 if answered else 0.05)
    except (ConnectionError, asyncio.TimeoutError):
        head = b""
    writer.close()
    if head.startswith(b"HTTP/1.1 4"):
        seen["garbage refused"] += 1
    elif head or answered:
        seen[f"broken: garbage was answered {head[:40]!r}"] += 1


async def client(door, number, until, alone, seen, delays, wrong):
    rng = random.Random(number)
    kind = {0: "slow", 1: "leaves", 2: "garbage"}.get(number % 10, "asks")
    while time.monotonic() < until:
        which = rng.randrange(64)
        try:
            if kind == "garbage":
                await throw(door, rng, seen)
                await asyncio.sleep(0.01)
                continue
            started = time.monotonic()
            leave = rng.randrange(1, 3000) if kind == "leaves" else None
            status, said, whole = await door.ask(body(which, rng.random() < 0.6 or kind != "asks"), kind == "slow", leave)
            seen[f"status {status}"] += 1
            if status == 200 and not whole:
                seen["left early, what they read compared"] += 1
                if not alone[which].startswith(said):
                    wrong.append((which, said))
            elif status == 200:
                delays.append(time.monotonic() - started)
                seen["answers compared" + (", read slowly" if kind == "slow" else "")] += 1
                if said != alone[which]:
                    wrong.append((which, said))
            elif status == 429:
                await asyncio.sleep(0.05)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.TimeoutError) as e:
            seen[f"{'garbage cut off' if kind == 'garbage' else 'broken'}: {type(e).__name__}"] += 1


def knock(url):
    """One too many, again and again: prints how long each 429 took, in seconds."""
    parts = urllib.parse.urlsplit(url)
    payload, waits = request("POST", "/v1/chat/completions", body(2, True)), []
    for _ in range(10 * KNOCKS):
        started = time.perf_counter()
        with socket.create_connection((parts.hostname, parts.port), 10) as line:
            line.sendall(payload)
            head = line.recv(100)
        took = time.perf_counter() - started
        if head.split(b" ")[1:2] == [b"429"]:
            waits.append(took)
        if len(waits) == KNOCKS:
            break
        time.sleep(0.02)
    print(json.dumps(waits))


async def hold(door, over):
    """Keeps one place taken."""
    while not over.is_set():
        _, writer = held = await door.send(request("POST", "/v1/chat/completions", endless()))
        ends = asyncio.create_task(held[0].read(-1))
        stop = asyncio.create_task(over.wait())
        await asyncio.wait([ends, stop], return_when=asyncio.FIRST_COMPLETED)
        ends.cancel(), stop.cancel()
        writer.close()


async def one_too_many(door, url):
    """Fills every place and lets another process knock: what it saw, and by the server's own clock."""
    places = int(await door.metric("queue_places"))
    over = asyncio.Event()
    holders = [asyncio.create_task(hold(door, over)) for _ in range(places)]
    while await door.metric("queue_places_taken") < places:
        await asyncio.sleep(0.02)
    before = await door.metrics()
    knocking = await asyncio.create_subprocess_exec(sys.executable, __file__, url, "--knock", stdout=subprocess.PIPE)
    waits = json.loads((await knocking.communicate())[0])
    after = await door.metrics()
    over.set()
    await asyncio.gather(*holders)
    grown = {name: after[name] - before.get(name, 0) for name in after if name.startswith("turned_away_seconds")}
    count = grown["turned_away_seconds_count"]
    bounds = [name.split('"')[1] for name in grown if "_bucket" in name and grown[name] == count]
    return waits, count, grown["turned_away_seconds_sum"] / max(count, 1), bounds[0]


async def main(arguments):
    door = Door(arguments.url)
    at_start = await door.metrics()
    alone = [(await door.ask(body(number, False)))[1] for number in range(64)]
    seen, delays, resident, wrong = collections.Counter(), [], [], []
    started = time.monotonic()
    until = started + arguments.seconds
    crowd = [
        asyncio.create_task(client(door, i, until, alone, seen, delays, wrong)) for i in range(arguments.clients)
    ]
    while time.monotonic() < until:
        await asyncio.sleep(min(5, arguments.seconds / 20))
        resident.append(await door.metric("resident_bytes"))
    await asyncio.gather(*crowd)
    lasted = time.monotonic() - started
    waits, refused, mean, within = await one_too_many(door, arguments.url)
    for _ in range(50):
        at_end = await door.metrics()
        if at_end["queue_places_taken"] == 0:
            break
        await asyncio.sleep(0.1)

    delays.sort()
    fifth = max(1, len(resident) // 5)
    warm, last = statistics.median(resident[fifth : 2 * fifth] or resident), statistics.median(resident[-fifth:])
    others = sum(any(said and said == other for other in alone) for _, said in wrong)
    broken = sum(count for name, count in seen.items() if name.startswith(("broken", "status")) and name not in ("status 200", "status 429"))
    accepted = seen["status 200"]
    print(f"{arguments.clients} clients, {lasted:.0f} s")
    for name, count in sorted(seen.items()):
        print(f"  {name}: {count}")
    print(f"  answers that differ from those given alone: {len(wrong)}, of them someone else's: {others}")
    for which, said in wrong[:3]:
        print(f"    question {which}: {said!r} instead of {alone[which]!r}")
    if delays:
        print(f"  answers: median {delays[len(delays) // 2]:.3f} s, 99 % within {delays[int(len(delays) * 0.99)]:.3f} s")
    print(
        f"  resident: {at_start['resident_bytes'] / 1e6:.1f} MB at the start, {warm / 1e6:.1f} MB after a fifth of the time, "
        f"{last / 1e6:.1f} MB at the end, {at_end['resident_peak_bytes'] / 1e6:.1f} MB at most"
    )
    slowest, middle = max(waits, default=0), statistics.median(waits or [0])
    print(
        f"  one too many: {len(waits)} times turned away; seen by the client: median {middle * 1000:.1f} ms, slowest "
        f"{slowest * 1000:.1f} ms; by the server's clock: {refused:.0f} refusals, {mean * 1000:.2f} ms on average, all within {float(within) * 1000:g} ms"
    )
    print(f"  places taken afterwards: {at_end['queue_places_taken']:.0f}; answers that failed: {at_end['answers_failed_total']:.0f}")

    faults = {
        "answers differ": wrong,
        "something broke": broken,
        "nothing was compared": not delays or not seen["garbage refused"],
        "memory grew": last > warm * 1.05 + 4e6,
        "too few were turned away": len(waits) < KNOCKS,
        f"a 429 took {PATIENCE * 1000:.0f} ms": slowest >= PATIENCE,
        "places are lost": at_end["queue_places_taken"] != 0,
        "answers failed": at_end["answers_failed_total"] != at_start["answers_failed_total"],
        "the server began anew": at_end["jobs_total"] < at_start["jobs_total"] + accepted,
    }
    faults = [name for name, fault in faults.items() if fault]
    print("NOT SOUND: " + ", ".join(faults) if faults else "sound")
    raise SystemExit(bool(faults))


parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("--seconds", type=float, default=600)
parser.add_argument("--clients", type=int, default=64)
parser.add_argument("--knock", action="store_true", help=argparse.SUPPRESS)
arguments = parser.parse_args()
if arguments.knock:
    knock(arguments.url)
else:
    asyncio.run(main(arguments))
