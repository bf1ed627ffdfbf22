"""Tables of the job file as pydantic models, and what is said about values that they refuse."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Section(BaseModel):
    """A table of the job file: unknown keys refused, values never coerced, no infinity, no NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, serialize_by_alias=True
    )


Positive = Annotated[int, Field(gt=0, le=2**53)]
Count = Annotated[int, Field(ge=0, le=2**53)]


def sentences(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """One line per refusal: the key, its value and what is allowed. `prefix` goes before each key."""
    return "\n".join(_sentence(detail, model, prefix) for detail in error.errors())


def _sentence(detail: Any, model: type[BaseModel], prefix: str) -> str:
    path, section = _path(detail["loc"], model)
    key = prefix + path or "the job"
    if detail["type"] == "extra_forbidden":
        known = (field.alias or name for name, field in section.model_fields.items())
        return f"{key}: unknown key; known here: {', '.join(known)}"
    if detail["type"] == "missing":
        return f"{key}: missing; {detail['msg'].lower()}"
    if detail["type"] == "value_error":
        told = str(detail["ctx"]["error"])
        return told if _names_its_key(told) else f"{key} = {detail['input']!r}: {told}"
    if detail["type"] == "rule":
        return f"{key}.rule = {detail['input'].get('rule')!r}: {detail['msg']}"
    return f"{key} = {detail['input']!r}: {detail['msg']}"


def _names_its_key(told: str) -> bool:
    """Whether a validator of ours spoke, of a whole table; one of a single value says only what to give."""
    return not told.startswith("give ")


def _path(location: tuple[Any, ...], model: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """(the key as a user writes it, the table it stands in), without pydantic's tags of union members."""
    section: type[BaseModel] = model
    parts: list[type[BaseModel]] = []
    names: list[str] = []
    for part in location:
        tagged = [found for found in parts if _is_tag(found, part)]
        if tagged:
            section, parts = tagged[0], []
        elif isinstance(part, int):
            names.append(f"[{part}]")
        elif part in section.model_fields:
            names.append(f".{part}")
            parts = _models(section.model_fields[part].annotation)
            section = parts[0] if len(parts) == 1 else section
        elif not str(part).startswith(("literal[", "constrained-", "function-", "tuple[")):
            names.append(f".{part}")
    return "".join(names).lstrip("."), section


def _is_tag(model: type[BaseModel], part: Any) -> bool:
    rule = model.model_fields.get("rule")
    return rule is not None and rule.default == part


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Every table that a field's type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _models(inner)]
