import pytest

from gateway.edge import is_under, settled_path


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("/v1/predictions", "/v1/predictions"),
        ("/v1/v1/predictions", "/v1/predictions"),
        ("/predictions", "/v1/predictions"),
        ("/predictions/abc", "/v1/predictions/abc"),
        ("/models/triton/x/predictions", "/v1/models/triton/x/predictions"),
        ("//v1/predictions", "/v1/predictions"),
        ("/v1/predictions/", "/v1/predictions"),
        ("/v1/v1", "/v1"),
        ("/v1", "/v1"),
        ("/", "/"),
        ("//", "/"),
        ("/predictionsx", "/predictionsx"),
        ("/healthz", "/healthz"),
        ("*", "*"),  # of `OPTIONS *`
        ("", "/"),
    ],
)
def test_every_base_url_that_clients_make_leads_to_the_same_path(asked: str, meant: str) -> None:
    assert settled_path(asked) == meant
    assert settled_path(meant) == meant


def test_a_prefix_ends_at_a_slash() -> None:
    assert is_under("/docs", ("/docs",))
    assert is_under("/docs/assets/x", ("/docs",))
    assert not is_under("/docsx", ("/docs",))
