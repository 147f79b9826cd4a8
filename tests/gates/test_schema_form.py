"""The form in which a contract is kept (G2)."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

from mcp_chassis.schema import compare, contract_of, digest_of, text_of
from tests.gates.test_schema_changes import holding


def shuffled(value: Any, draw: random.Random) -> Any:
    """Return the same JSON with the keys of every object in another order."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda _: draw.random())
        return {key: shuffled(value[key], draw) for key in keys}
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


PING = {"name": "ping", "inputSchema": {"properties": {"steps": {}, "interval": {}}}}


def test_G2_form_is_the_same_whatever_order_a_server_answers_in() -> None:
    tools = [
        {"name": f"t{number}", "inputSchema": holding({"type": ["null", "string"]}, required=["x", "a"])}
        for number in range(5)
    ]
    plain = text_of(contract_of({"tools": tools}))
    draw = random.Random(1)

    for _ in range(20):
        mixed = [shuffled(tool, draw) for tool in draw.sample(tools, 5)]
        for tool in mixed:
            draw.shuffle(tool["inputSchema"]["required"])
            draw.shuffle(tool["inputSchema"]["properties"]["x"]["type"])
        assert text_of(contract_of({"tools": [*mixed, PING]})) == plain


def test_G2_values_whose_order_means_something_keep_it() -> None:
    one, other = (
        {"tools": [{"name": "t", "inputSchema": holding({"enum": found})}]} for found in (["a", "b"], ["b", "a"])
    )

    assert text_of(contract_of(one)) != text_of(contract_of(other))
    assert compare(contract_of(one), contract_of(other)) != []


def test_G2_what_changes_from_call_to_call_is_left_out() -> None:
    tool = {"name": "t", "inputSchema": {}}
    noisy = {**tool, "_meta": {"ttlMs": 5}, "icons": [{"src": "data:,"}]}

    assert contract_of({"tools": [noisy]}) == contract_of({"tools": [tool]})
    assert contract_of({"resources": [{"uri": "a:b", "size": 1}]}) == contract_of({"resources": [{"uri": "a:b"}]})


def test_G2_ping_of_the_chassis_is_left_out_and_a_stranger_s_is_not() -> None:
    assert contract_of({"tools": [PING]})["tools"] == {}
    assert list(contract_of({"tools": [{"name": "ping", "inputSchema": {"properties": {"host": {}}}}]})["tools"]) == [
        "ping"
    ]


def test_G2_digest_is_that_of_the_file_as_sha256sum_sees_it(tmp_path: Path) -> None:
    text = text_of(contract_of({"tools": [{"name": "t", "description": "naïve 日本語 🗒", "inputSchema": {}}]}))
    (tmp_path / "tools.json").write_text(text, encoding="utf-8")
    (tmp_path / "tools.sha256").write_text(f"{digest_of(text)}  tools.json\n", encoding="utf-8")

    subprocess.run(["sha256sum", "--check", "--strict", "tools.sha256"], cwd=tmp_path, check=True)

    assert "日本語" in text
    assert json.loads(text)["format"] == 1
