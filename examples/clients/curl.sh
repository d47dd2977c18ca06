#!/bin/sh
# A question, answered word by word. -N shows the pieces as they come.
curl -N "${THERMOCLINE_URL:-http://127.0.0.1:8080}/v1/chat/completions" \
    -H "Content-Type: application/json" -H "Authorization: Bearer ${THERMOCLINE_KEY:-none}" \
    -d '{"messages": [{"role": "user", "content": "Tell me a story about a fox."}], "stream": true}'
