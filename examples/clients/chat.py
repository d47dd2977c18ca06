"""A question, answered word by word, with OpenAI's package: pip install openai."""
import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("THERMOCLINE_URL", "http://127.0.0.1:8080") + "/v1",
    api_key=os.environ.get("THERMOCLINE_KEY", "none"),
)
model = client.models.list().data[0].id
stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "Tell me a story about a fox."}],
    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
