import json
from pathlib import Path
from typing import Any

import pytest

from model.errors import ModelError
from model.formats.json_object import JsonObject


def test_null_counts_as_absent(tmp_path: Path) -> None:
    config = JsonObject(tmp_path, {"a": None})
    assert not config.has("a")
    assert config.integer("a", 5) == 5
    assert config.texts("a") == ()
    assert config.child("a").values == {}


def test_an_absent_key_without_default_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: the key rope_scaling\.factor is missing"):
        JsonObject(tmp_path / "config.json", {"rope_scaling": {}}).child("rope_scaling").number("factor")


@pytest.mark.parametrize(
    ("method", "values"),
    {
        "integer": [True, "1", 1.0, 0, -1, 2**31, [1]],
        "number": [True, "1", float("nan"), float("inf"), -float("inf"), 10**400, [1.0]],
        "positive": [0, 0.0, -1.0, float("nan"), False],
        "flag": [0, 1, "true", []],
        "text": [1, True, ["a"]],
        "integers": ["1", [True], [1.5], [[1]], True, {"a": 1}],
        "texts": ["a", [1], {"a": "b"}],
        "child": [[], "a", 1],
    }.items(),
)
def test_another_type_is_refused_with_its_value(method: str, values: list[Any], tmp_path: Path) -> None:
    for value in values:
        with pytest.raises(ModelError, match="key is .*; it must be "):
            getattr(JsonObject(tmp_path, {"key": value}), method)("key")


def test_bounds_hold_and_are_said(tmp_path: Path) -> None:
    config = JsonObject(tmp_path, {"key": 3})
    assert config.integer("key", least=3, most=3) == config.number("key", least=3, most=3) == 3
    with pytest.raises(ModelError, match="from 4 to 9"):
        config.integer("key", least=4, most=9)
    with pytest.raises(ModelError, match="at most 2"):
        config.number("key", most=2)


def test_one_number_stands_for_a_list_of_itself(tmp_path: Path) -> None:
    assert JsonObject(tmp_path, {"key": 7}).integers("key") == (7,)
    assert JsonObject(tmp_path, {"key": [7, 8]}).integers("key") == (7, 8)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"text"', b"\xff{}", b'{"a": 1', b"[" * 100_000, b'{"a": ' + b"9" * 10_000 + b"}"]
    + [rb'{"\ud800": 1}', rb'{"a": {"b": ["\udfff"]}}', b'{"a": "\xed\xa0\x80"}'],  # halves of a surrogate pair
)
def test_what_is_no_json_object_is_refused_by_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        JsonObject.read(tmp_path / "config.json")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        JsonObject.read(tmp_path / "config.json")


def test_reads_what_json_wrote(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"name": "小模型🦙", "size": 64}))
    config = JsonObject.read(tmp_path / "config.json")
    assert config.text("name") == "小模型🦙"
    assert config.integer("size") == 64
