"""The API's process stays small: it never loads the training half."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import api.app
from api.settings import ApiSettings
api.app.create_app(ApiSettings()).openapi()
heavy = {"torch", "transformers", "peft", "numpy", "matplotlib", "safetensors", "gguf"}
print(sorted(heavy & set(sys.modules)))
"""


def test_a_fresh_interpreter_with_the_api_has_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
