"""Paints through LiteLLM's route to OpenAI-like servers: litellm_paint.py URL OUTPUT."""

import base64
import sys
from pathlib import Path

import litellm

url, output = sys.argv[1:]
result = litellm.image_generation(
    model="openai/mini", prompt="a fox", api_base=f"{url}/v1", api_key="none", size="64x64", n=1
)
Path(output).write_bytes(base64.b64decode(result.data[0].b64_json))
