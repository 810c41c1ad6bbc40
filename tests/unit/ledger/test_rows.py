"""The shape of a row, and how rows are cut into statements. (The round trip needs Postgres.)"""

import pytest

from ledger import statements
from ledger.ledger import STATEMENT_ROWS_MAX, _chunks
from ledger.rows import COLUMNS, size, to_row
from tests.ended import failed, succeeded


def test_a_row_has_a_value_for_every_column() -> None:
    row = dict(zip(COLUMNS, to_row(succeeded(content=b"abc")), strict=True))

    assert row["input"] == '{"top":5}'
    assert row["files"] == (
        '{"image":{"media_type":"image/jpeg","size":3,"sha256":"' + "ab" * 32 + '"}}'
    )
    assert row["output"] == '{"label":"tabby","score":0.5}'
    assert row["error"] is None


def test_what_has_no_form_as_text_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="utf-8"):
        to_row(succeeded(output=b'"\xff"'))
    with pytest.raises(ValueError, match="surrogates"):
        to_row(succeeded(input={"text": "\ud800"}))


def test_a_statement_is_bounded_in_rows_and_in_text(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = to_row(failed()), to_row(succeeded(output=b'"' + b"x" * 5000 + b'"'))

    chunks = list(_chunks([small] * (2 * STATEMENT_ROWS_MAX + 1)))
    assert [len(chunk) for chunk in chunks] == [STATEMENT_ROWS_MAX, STATEMENT_ROWS_MAX, 1]

    monkeypatch.setattr("ledger.ledger.STATEMENT_CHARACTERS_MAX", 2 * size(small))
    chunks = list(_chunks([small, small, small, large, small]))
    assert [len(chunk) for chunk in chunks] == [2, 1, 1, 1]
    assert not list(_chunks([]))


def test_the_filters_of_a_page_are_parameters_in_the_order_they_are_given() -> None:
    statement = statements.page(owner=True, model=True, status=None)

    assert "owner >= $3 AND owner <= $3" in statement
    assert "model = $4" in statement
    assert statement.endswith("ORDER BY owner DESC, id DESC LIMIT $2")
    assert "model >= $3" in statements.page(owner=False, model=True, status=None)
