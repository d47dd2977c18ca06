"""What Anthropic's Python package makes of the server, case by case, on the bundled model.

    thermocline serve --port 8080 &
    pip install anthropic && python scripts/clients/check_messages.py http://127.0.0.1:8080
"""
import sys

import anthropic

import cases
from cases import case, run

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
SUM, ANSWER = "What is 7 + 5?", "7 + 5 = 12."
RAIN = {
    "name": "rain",
    "description": "Will it rain?",
    "input_schema": {
        "type": "object", "required": ["city"], "additionalProperties": False,
        "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
    },
}


def said(words):
    return [{"role": "user", "content": words}]


def body(words=SUM, **more):
    more = {"model": "bundled", "max_tokens": 100, "messages": said(words), **more}
    # What the package has no name for goes beside the rest.
    more["extra_body"] = {name: more.pop(name) for name in ["seed", "temperature"] if name in more}
    return more


def ask(words=SUM, **more):
    return client.messages.create(**body(words, **{"temperature": 0, **more}))


def refused(kind, words, ask):
    e = cases.refused(kind, words, ask)
    assert e.body["type"] == "error" and e.body["error"]["type"].endswith("_error"), e.body


@case
def a_sum():
    answer = ask()
    assert answer.content[0].text == ANSWER and answer.stop_reason == "end_turn", answer


@case
def usage():
    usage = ask().usage
    prompt = usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert prompt == client.messages.count_tokens(model="bundled", messages=said(SUM)).input_tokens, usage


@case
def a_stream():
    with client.messages.stream(**body(temperature=0)) as stream:
        assert "".join(stream.text_stream) == ANSWER
        assert stream.get_final_message().stop_reason == "end_turn"


@case
def raw_events():
    names = [event.type for event in client.messages.create(**body(temperature=0, stream=True))]
    assert names[0] == "message_start" and names[-2:] == ["message_delta", "message_stop"], names


@case
def system_prompts():
    for system in ["Be kind.", [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]]:
        assert ask(system=system).content[0].type == "text"


@case
def stop_sequences():
    answer = ask(stop_sequences=["never", " + "])
    assert (answer.stop_reason, answer.stop_sequence, answer.content[0].text) == ("stop_sequence", " + ", "7"), answer


@case
def a_short_answer():
    answer = ask("Tell me a story about a fox.", max_tokens=5)
    assert answer.stop_reason == "max_tokens" and answer.usage.output_tokens == 5, answer


@case
def seeds():
    one = ask("Tell me a story.", temperature=1, seed=3).content
    assert ask("Tell me a story.", temperature=1, seed=3).content == one


@case
def turns():
    turns = [*said("Hi"), {"role": "assistant", "content": [{"type": "text", "text": "Hello!"}]}, *said(SUM)]
    assert ask(messages=turns).content


@case
def a_tool_that_must_be_used():
    for choice in [{"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "rain"}]:
        answer = ask("Rain?", tools=[RAIN], tool_choice=choice)
        (call,) = answer.content
        assert (answer.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "rain"), answer
        assert call.input["city"] in ("Oslo", "Rome")


@case
def a_tool_in_a_stream():
    with client.messages.stream(**body("Rain?", tools=[RAIN], tool_choice={"type": "any"})) as stream:
        message = stream.get_final_message()
    assert message.content[0].input["city"] in ("Oslo", "Rome"), message


@case
def a_tool_nobody_uses():
    for choice in [{"type": "auto"}, {"type": "none"}]:
        assert ask(tools=[RAIN], tool_choice=choice, max_tokens=20).content[0].type == "text"


@case
def results_of_a_tool():
    call = ask("Rain?", tools=[RAIN], tool_choice={"type": "tool", "name": "rain"}).content
    turns = [*said("Rain?"), {"role": "assistant", "content": call},
             {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call[0].id, "content": "yes"}]}]
    assert ask(messages=turns, tools=[RAIN], tool_choice={"type": "none"}, max_tokens=9).role == "assistant"


@case
def counts_of_tokens():
    plain = client.messages.count_tokens(model="bundled", messages=said(SUM)).input_tokens
    more = client.messages.count_tokens(model="bundled", messages=said(SUM), system="Be kind.", tools=[RAIN]).input_tokens
    assert more > plain > 0


@case
def errors():
    refused(anthropic.NotFoundError, "no model", lambda: ask(model="claude"))
    refused(anthropic.BadRequestError, "temperature", lambda: ask(temperature=-1))
    refused(anthropic.BadRequestError, "messages", lambda: ask(messages=[]))
    refused(anthropic.BadRequestError, "context", lambda: ask("word " * 3000))
    odd = {"name": "f", "input_schema": {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}}
    refused(anthropic.BadRequestError, "uniqueItems", lambda: ask(tools=[odd | {"strict": True}]))
    # Leave to think, and a schema that nobody insists on, are no errors.
    ask(thinking={"type": "enabled", "budget_tokens": 1024})
    ask(tools=[odd])


run(anthropic)
