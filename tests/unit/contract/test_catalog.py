"""Callers may name a model in every spelling the field uses, and no other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.catalog import Catalog, Model, parse_reference, version_id
from contract.errors import InvalidInput, UnknownModel


def model(name: str, *versions: int) -> Model:
    return Model(name, versions, "tensor", 8, (), ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resnet50", ("resnet50", None)),
        ("triton/resnet50", ("resnet50", None)),
        ("triton/resnet50@3", ("resnet50", 3)),
        ("triton/resnet50:3", ("resnet50", 3)),
        ("resnet50@3", ("resnet50", 3)),
        ("triton.resnet50.3", ("resnet50", 3)),
        ("triton.res.net.50.3", ("res.net.50", 3)),
        ("triton/resnet50:triton.resnet50.3", ("resnet50", 3)),
    ],
)
def test_every_spelling_names_the_model(text: str, expected: tuple[str, int | None]) -> None:
    assert parse_reference(text) == expected


def test_a_bare_number_says_what_to_write_instead() -> None:
    with pytest.raises(InvalidInput, match=r"triton\.<model>\.3$") as caught:
        parse_reference("3")
    assert (caught.value.field, caught.value.rule) == ("version", "version_id")


@pytest.mark.parametrize(
    "text",
    ["", "/", "triton/", "other/resnet50", "a b", "resnet50@0", "resnet50@x", "a:b:c", "a" * 200],
)
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_reference(text)


@given(st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True), st.integers(1, 10**17))
def test_a_version_id_names_its_model_and_number(name: str, number: int) -> None:
    assert parse_reference(version_id(name, number)) == (name, number)


def test_the_latest_version_is_the_default_and_only_served_ones_are_found() -> None:
    catalog = Catalog([model("a", 1, 3), model("b", 2)])
    assert catalog.resolve("a", None)[1] == 3
    assert catalog.resolve("a", 1)[1] == 1
    with pytest.raises(UnknownModel, match="has no version 2; it has 1, 3"):
        catalog.resolve("a", 2)
    with pytest.raises(UnknownModel, match="no model named 'c'"):
        catalog.resolve("c", None)


def test_a_hostile_name_is_shown_escaped_and_cut() -> None:
    with pytest.raises(UnknownModel) as caught:
        Catalog([]).model("\x1b[2J" + "x" * 500)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 140
