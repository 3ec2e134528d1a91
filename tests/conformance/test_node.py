"""OpenAI's client for Node, if it is here: `make test-conformance` puts it into build/conformance/node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from api.testing import ApiServer
from sgg_core.catalogue import BaseModelEntry

HOME = Path(__file__).parents[2] / "build" / "conformance" / "node"
SCRIPT = Path(__file__).with_name("client.mjs")


def test_every_check_of_the_node_client_holds(server: ApiServer, answering: ApiServer, tiny: BaseModelEntry) -> None:
    node = shutil.which("node")
    if node is None or not (HOME / "node_modules" / "openai").is_dir():
        assert "SGG_CONFORMANCE_OPENAI" not in os.environ, "node, or its openai package, is missing"
        pytest.skip("node, or its openai package, is not here; make test-conformance fetches the latter")
    copy = HOME / SCRIPT.name  # modules are looked for beside the script
    shutil.copyfile(SCRIPT, copy)
    environment = os.environ | {"SGG_BASE_URL": server.base_url, "SGG_API_KEY": server.admin_key, "NO_PROXY": "*"}
    environment |= {"SGG_TRIAL_BASE_URL": answering.base_url, "SGG_TRIAL_API_KEY": answering.admin_key}
    environment |= {"SGG_TRIAL_MODEL": tiny.name}
    done = subprocess.run([node, copy], capture_output=True, text=True, env=environment, timeout=120, check=True)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == 8
    assert {one["name"]: one["problem"] for one in told if one["problem"]} == {}
