"""A question, answered word by word, with Anthropic's package: pip install anthropic."""
import os

from anthropic import Anthropic

client = Anthropic(
    base_url=os.environ.get("THERMOCLINE_URL", "http://127.0.0.1:8080"),
    api_key=os.environ.get("THERMOCLINE_KEY", "none"),
)
with client.messages.stream(
    model=client.models.list().data[0].id,
    max_tokens=400,
    messages=[{"role": "user", "content": "Tell me a story about a fox."}],
) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
print()
