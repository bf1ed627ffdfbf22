"""sheepfold.initial: which tensors of a source become version 0."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sheepfold.errors import Refused
from sheepfold.initial import check_shapes, read_file, renamed, sources
from sheepfold_wire.job import Init

NAMES = ["encoder.0.weight", "encoder.0.bias", "head.weight"]


def init_of(**values: Any) -> Init:
    return Init.model_validate({"from": "file:w.safetensors", **values})


@pytest.mark.parametrize(
    ("name", "patterns", "found"),
    [
        ("encoder.0.weight", {"encoder.*": "bert.encoder.*"}, "bert.encoder.0.weight"),
        ("encoder.0.weight", {"*.weight": "*.w"}, "encoder.0.w"),
        ("encoder.0.weight", {"encoder.0.weight": "first"}, "first"),
        ("encoder.0.weight", {"other.*": "x.*", "encoder.*": "y.*"}, "y.0.weight"),
        ("aa", {"aa*a": "x*"}, "aa"),  # both ends of the pattern would need the same letter
        ("head", {}, "head"),
    ],
)
def test_a_star_stands_for_the_same_text_on_both_sides(
    name: str, patterns: dict[str, str], found: str
) -> None:
    assert renamed(name, patterns) == found


def test_every_tensor_is_found_under_its_name_there() -> None:
    there = {"bert.encoder.0.weight", "bert.encoder.0.bias", "head.weight"}
    used = sources(NAMES, there, init_of(names={"encoder.*": "bert.encoder.*"}))
    assert used == {name: f"bert.{name}" if "encoder" in name else name for name in NAMES}


def test_missing_tensors_are_refused_all_at_once_with_what_is_there() -> None:
    with pytest.raises(Refused) as caught:
        sources(NAMES, {"encoder.0.bias", "pooler"}, init_of(names={"head.*": "cls.*"}))
    text = str(caught.value)
    assert "2 tensors of the model are not there: encoder.0.weight, head.weight (there: cls.weight)" in text
    assert "It has encoder.0.bias, pooler" in text
    assert "init.fresh" in caught.value.remedy


def test_fresh_tensors_may_be_missing_and_unexpected_ones_are_listed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "sheepfold")
    used = sources(NAMES, {*NAMES[:2], "pooler"}, init_of(fresh=["head.*"]))
    assert used == {name: name for name in NAMES[:2]}
    assert "not used: pooler" in caplog.text


def test_another_shape_is_refused_with_both() -> None:
    with pytest.raises(
        Refused, match=r"head.weight has shape \(3,\) there, the model's head.weight has \(2,\)"
    ):
        check_shapes({"head.weight": "head.weight"}, {"head.weight": np.zeros(3)}, {"head.weight": (2,)})


def test_a_file_is_read_and_a_missing_or_broken_one_refused(tmp_path: Path) -> None:
    save_file({"a": np.arange(3, dtype=np.float32)}, tmp_path / "w.safetensors")
    assert read_file(str(tmp_path / "w.safetensors"), "np")["a"].tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(Refused, match="there is no such file on this worker"):
        read_file(str(tmp_path / "none"), "np")
    (tmp_path / "broken").write_bytes(b"not safetensors at all")
    with pytest.raises(Refused, match="it cannot be read"):
        read_file(str(tmp_path / "broken"), "np")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"from": "somewhere"}, 'init.from = "somewhere": give "first-worker", "file:PATH" or "JOB@VERSION"'),
        ({"from": "checkpoint:s3://x"}, "sheepfold checkpoint export"),
        ({"from": "job@-1"}, "give"),
        ({"from": "file:"}, "give"),
        ({"fresh": ["head.*"]}, "about another source"),
        ({"from": "file:x", "names": {"a.*": "b"}}, r"give both one \*"),
        ({"from": "file:x", "names": {"a.*.*": "b.*.*"}}, r"give both one \*"),
    ],
)
def test_a_source_that_cannot_be_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Init.model_validate(values)
