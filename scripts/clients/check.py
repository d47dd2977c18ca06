"""What OpenAI's Python package makes of the server, case by case, on the bundled model.

    thermocline serve --port 8080 &
    pip install openai && python scripts/clients/check.py http://127.0.0.1:8080
"""
import concurrent.futures
import json
import math
import sys

import openai

from cases import case, refused, run

URL = (sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080") + "/v1"
client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0)
MODEL = client.models.list().data[0].id
SUM = "What is 7 + 5?"
ANSWER = "7 + 5 = 12."
STORY = "Tell me a story about a fox."
NEVER_ENDS = {"1021": -100, "1023": -100}


def user(words):
    return [{"role": "user", "content": words}]


def chat(words=SUM, **more):
    more = {"model": MODEL, "messages": user(words), "temperature": 0, **more}
    return client.chat.completions.create(**more)


def complete(prompt="Once upon a", **more):
    return client.completions.create(**{"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 8, **more})


def text(answer):
    return answer.choices[0].message.content


def joined(stream, index=0):
    chunks = list(stream)
    return "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices if c.index == index), chunks


@case
def models_are_listed():
    assert [m.id for m in client.models.list()][0] == MODEL


@case
def a_model_is_found():
    assert client.models.retrieve(MODEL).object == "model"


@case
def an_unknown_model_is_not_found():
    refused(openai.NotFoundError, "no model", lambda: client.models.retrieve("other"))


@case
def a_sum():
    answer = chat()
    assert text(answer) == ANSWER and answer.choices[0].finish_reason == "stop", answer


@case
def usage_adds_up():
    u = chat().usage
    assert u.total_tokens == u.prompt_tokens + u.completion_tokens and u.completion_tokens > 5, u


@case
def cached_tokens_are_said():
    chat("How much is 92 minus 58?")
    u = chat("How much is 92 minus 58?").usage
    assert u.prompt_tokens_details.cached_tokens == u.prompt_tokens - 1, u


@case
def a_system_prompt_is_read():
    plain = chat().usage.prompt_tokens
    more = chat(messages=[{"role": "system", "content": "Be brief."}, *user(SUM)]).usage.prompt_tokens
    assert more > plain


@case
def developer_is_system():
    ask = lambda role: chat(messages=[{"role": role, "content": "Be brief."}, *user(SUM)]).usage.prompt_tokens
    assert ask("developer") == ask("system")


@case
def content_in_parts():
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "7 + 5?"}]
    assert text(chat(messages=[{"role": "user", "content": parts}])) == ANSWER


@case
def a_conversation_goes_on():
    said = [*user(SUM), {"role": "assistant", "content": ANSWER}, *user("What is 48 + 37?")]
    assert "85" in text(chat(messages=said))


@case
def a_stream():
    said, chunks = joined(chat(stream=True))
    assert said == ANSWER and chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"


@case
def a_stream_with_usage():
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    assert not chunks[-1].choices and chunks[-1].usage.completion_tokens == chat().usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


@case
def a_stream_with_the_helper():
    with client.chat.completions.stream(model=MODEL, messages=user(SUM), temperature=0) as stream:
        done = [event for event in stream if event.type == "content.done"]
    assert done[0].content == ANSWER


@case
def timings_come_with_the_end():
    chunks = list(chat(stream=True))
    assert chunks[-1].model_extra["timings"]["predicted_per_second"] > 0


@case
def a_stream_left_early():
    stream = chat(STORY, stream=True, logit_bias=NEVER_ENDS)
    next(iter(stream))
    stream.close()
    assert text(chat()) == ANSWER


@case
def max_tokens():
    answer = chat(STORY, max_tokens=5)
    assert answer.usage.completion_tokens == 5 and answer.choices[0].finish_reason == "length"


@case
def max_completion_tokens():
    assert chat(STORY, max_completion_tokens=6).usage.completion_tokens == 6


@case
def one_stop():
    whole, cut = text(chat(STORY)), chat(STORY, stop="learn to")
    assert text(cut) == whole.split("learn to")[0] and cut.choices[0].finish_reason == "stop"


@case
def several_stops():
    assert text(chat(STORY, stop=["nowhere", "learn to"])) == text(chat(STORY)).split("learn to")[0]


@case
def stops_in_a_stream():
    assert joined(chat(STORY, stop="learn to", stream=True))[0] == text(chat(STORY, stop="learn to"))


@case
def several_choices():
    answer = chat(n=3)
    assert [c.index for c in answer.choices] == [0, 1, 2] and all(c.message.content == ANSWER for c in answer.choices)


@case
def several_choices_in_a_stream():
    chunks = list(chat(n=3, stream=True))
    said = ["".join(c.delta.content or "" for k in chunks for c in k.choices if c.index == i) for i in range(3)]
    assert said == [ANSWER] * 3


@case
def a_seed_repeats():
    ask = lambda seed: text(chat(STORY, temperature=1.5, seed=seed, max_tokens=30))
    assert ask(7) == ask(7)


@case
def seeds_differ():
    assert len({text(chat(STORY, temperature=2, top_p=1, seed=s, max_tokens=30)) for s in range(5)}) > 1


@case
def choices_are_seeds_in_a_row():
    hot = dict(temperature=1.5, max_tokens=20)
    many = chat(STORY, seed=11, n=3, **hot)
    assert [c.message.content for c in many.choices] == [text(chat(STORY, seed=11 + i, **hot)) for i in range(3)]


@case
def temperature_zero_is_the_best():
    assert len({text(chat(STORY, max_tokens=20)) for _ in range(3)}) == 1


@case
def top_p_zero_is_the_best():
    assert text(chat(temperature=2, top_p=0)) == ANSWER


@case
def fields_beyond_openai():
    for more in ({"top_k": 1}, {"min_p": 1.0}):
        assert text(chat(temperature=2, extra_body=more)) == ANSWER


@case
def penalties_change_answers():
    assert text(chat(presence_penalty=2, frequency_penalty=2, extra_body={"repeat_penalty": 3})) != ANSWER


@case
def a_bias_forbids():
    ids = client.post("../tokenize", body={"content": "7"}, cast_to=object)["tokens"]
    assert "7" not in text(chat(logit_bias={str(ids[0]): -100}))


@case
def logprobs():
    answer = chat(logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert b"".join(bytes(t.bytes) for t in content).decode() == ANSWER
    assert all(t.logprob <= 0 and len(t.top_logprobs) == 2 and t.top_logprobs[0].token == t.token for t in content)


@case
def logprobs_are_probabilities():
    content = chat(STORY, logprobs=True, top_logprobs=20, max_tokens=10).choices[0].logprobs.content
    for token in content:
        assert 0 < sum(math.exp(t.logprob) for t in token.top_logprobs) < 1.0001


@case
def logprobs_in_a_stream():
    chunks = list(chat(logprobs=True, stream=True))
    tokens = [t.token for k in chunks for c in k.choices if c.logprobs for t in c.logprobs.content]
    assert "".join(tokens) == ANSWER


@case
def a_completion():
    answer = complete()
    assert answer.object == "text_completion" and len(answer.choices[0].text) > 3


@case
def a_completion_of_tokens():
    ids = client.post("../tokenize", body={"content": "Once upon a"}, cast_to=object)["tokens"]
    assert complete(ids).choices[0].text == complete().choices[0].text


@case
def completions_of_several_prompts():
    both = complete(["Once upon a", "def add"])
    assert [c.text for c in both.choices] == [complete().choices[0].text, complete("def add").choices[0].text]


@case
def a_completion_in_a_stream():
    assert "".join(k.choices[0].text for k in complete(stream=True)) == complete().choices[0].text


@case
def a_completion_with_logprobs():
    choice = complete(logprobs=3).choices[0]
    assert "".join(choice.logprobs.tokens) == choice.text and len(choice.logprobs.top_logprobs[0]) == 3
    assert choice.logprobs.text_offset[0] == 0


@case
def sixteen_tokens_by_default():
    answer = client.completions.create(model=MODEL, prompt="Once upon a", temperature=0)
    assert answer.usage.completion_tokens == 16


@case
def russian_is_whole():
    said, _ = joined(chat("Расскажи сказку о волке.", stream=True))
    assert said.startswith("Жил-был") and "\ufffd" not in said, said


@case
def another_model_is_404():
    assert refused(openai.NotFoundError, "gpt-4o", lambda: chat(model="gpt-4o")).code == "model_not_found"


@case
def a_wrong_temperature_is_400():
    assert refused(openai.BadRequestError, "temperature", lambda: chat(temperature=-1)).param == "temperature"


@case
def an_unknown_field_is_400():
    refused(openai.BadRequestError, "tempo", lambda: chat(extra_body={"tempo": 1}))


@case
def images_are_400():
    image = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    refused(openai.BadRequestError, "content[0]", lambda: chat(messages=[{"role": "user", "content": image}]))


@case
def too_long_is_400():
    error = refused(openai.BadRequestError, "context", lambda: chat("word " * 3000))
    assert error.code == "context_length_exceeded"


@case
def embeddings_are_404():
    refused(openai.NotFoundError, "no embeddings", lambda: client.embeddings.create(model=MODEL, input="Hi"))


RAIN = {
    "type": "object", "required": ["city"], "additionalProperties": False,
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
}
TOOLS = [{"type": "function", "function": {"name": "rain", "description": "Will it rain?", "parameters": RAIN}}]


def shape(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def is_city(arguments):
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    assert set(arguments) == {"city"} and arguments["city"] in ("Oslo", "Rome"), arguments


@case
def json_objects():
    assert isinstance(json.loads(text(chat("An example?", response_format={"type": "json_object"}))), dict)


@case
def schemas():
    is_city(text(chat("An example?", response_format=shape(RAIN))))


@case
def schemas_in_streams():
    is_city(joined(chat("An example?", response_format=shape(RAIN), stream=True))[0])


@case
def schemas_that_are_not_supported_are_400():
    odd = shape({"type": "array", "items": {}, "uniqueItems": True})
    refused(openai.BadRequestError, "uniqueItems", lambda: chat(response_format=odd))


@case
def grammars():
    assert text(chat(extra_body={"grammar": 'root ::= "a" [0-9]{3}'}))[0] == "a"
    assert complete(extra_body={"grammar": 'start: "b" "c"'}).choices[0].text == "bc"


@case
def tools_that_are_required():
    answer = chat("Rain?", tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls" and call.function.name == "rain"
    is_city(call.function.arguments)


@case
def tools_by_name_in_a_stream():
    named = {"type": "function", "function": {"name": "rain"}}
    with client.chat.completions.stream(model=MODEL, messages=user("Rain?"), tools=TOOLS, tool_choice=named) as stream:
        whole = stream.get_final_completion()
    is_city(whole.choices[0].message.tool_calls[0].function.arguments)


@case
def tools_that_take_text():
    patch = {"type": "custom", "custom": {"name": "patch"}}
    answer = chat("Mend it.", tools=[patch, *TOOLS], tool_choice=patch, max_tokens=400)
    (call,) = answer.choices[0].message.tool_calls
    assert (call.type, call.custom.name) == ("custom", "patch") and isinstance(call.custom.input, str)


@case
def tools_nobody_calls():
    for choice in ["auto", "none"]:
        assert text(chat(tools=TOOLS, tool_choice=choice, max_tokens=20)) is not None


@case
def results_of_tools():
    call = {"id": "1", "type": "function", "function": {"name": "rain", "arguments": '{"city": "Oslo"}'}}
    told = [*user("Rain?"), {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": "yes"}]
    assert chat(messages=told, tools=TOOLS, max_tokens=5).usage.completion_tokens > 0


@case
def a_response():
    answer = client.responses.create(model=MODEL, input=SUM, temperature=0)
    assert answer.output_text == ANSWER and answer.status == "completed", answer


@case
def a_response_in_a_stream():
    with client.responses.stream(model=MODEL, input=user(SUM), temperature=0, instructions="Be kind.") as stream:
        deltas = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == deltas


@case
def a_response_of_a_schema():
    form = {"format": {"type": "json_schema", "name": "answer", "schema": RAIN, "strict": True}}
    is_city(client.responses.create(model=MODEL, input="An example?", text=form).output_text)


@case
def a_response_that_calls():
    tool = {"type": "function", "name": "rain", "parameters": RAIN, "strict": True}
    answer = client.responses.create(model=MODEL, input="Rain?", tools=[tool], tool_choice="required")
    is_city(answer.output[0].arguments)
    more = [*user("Rain?"), answer.output[0].model_dump(exclude_none=True),
            {"type": "function_call_output", "call_id": answer.output[0].call_id, "output": "yes"}]
    assert client.responses.create(model=MODEL, input=more, max_output_tokens=4).status in ("incomplete", "completed")


@case
def a_response_of_before_is_400():
    ask = lambda: client.responses.create(model=MODEL, input=SUM, previous_response_id="resp_1")
    refused(openai.BadRequestError, "previous_response_id", ask)


@case
def many_at_once():
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: text(chat(SUM if i % 2 else "What is 48 + 37?")), range(48)))
    assert answers == ["48 + 37 = 85.", ANSWER] * 24


@case
def a_crowd_is_turned_away():
    body = dict(model=MODEL, messages=user(STORY), n=16, logit_bias=NEVER_ENDS, max_tokens=40, temperature=0)

    def ask(_):
        try:
            client.chat.completions.create(**body)
            return 200, 0
        except openai.RateLimitError as e:
            assert int(e.response.headers["retry-after"]) > 0
            return 429, e.response.elapsed.total_seconds()

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        seen = list(pool.map(ask, range(12)))
    assert {status for status, _ in seen} == {200, 429}, seen


@case
def async_clients():
    import asyncio

    async def ask():
        async with openai.AsyncOpenAI(base_url=URL, api_key="none") as c:
            stream = await c.chat.completions.create(model=MODEL, messages=user(SUM), temperature=0, stream=True)
            return "".join([k.choices[0].delta.content or "" async for k in stream])

    assert asyncio.run(ask()) == ANSWER


run(openai)
