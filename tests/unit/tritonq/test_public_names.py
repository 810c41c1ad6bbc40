"""What callers may import is a promise: it changes on purpose, with a line in the changelog."""

import inspect

import tritonq


def test_the_public_names_are_these_and_no_others() -> None:
    assert sorted(tritonq.__all__) == [
        "AcceptanceUnknown",
        "AsyncClient",
        "Client",
        "Expired",
        "InvalidInput",
        "Item",
        "KeyReused",
        "Model",
        "NoService",
        "NotFound",
        "NotRetryable",
        "Overloaded",
        "Prediction",
        "PredictionFailed",
        "Priority",
        "RequestRefused",
        "ServiceUnavailable",
        "StillRunning",
        "TritonqError",
        "Unauthorized",
        "UnexpectedAnswer",
        "Version",
    ]
    for name in tritonq.__all__:
        assert hasattr(tritonq, name)


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    def methods(client: type) -> dict[str, list[str]]:
        public = inspect.getmembers(client, inspect.isfunction)
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in public
            if not name.startswith("_")
        }

    assert methods(tritonq.Client) == methods(tritonq.AsyncClient)


def test_every_error_a_caller_can_meet_is_a_tritonq_error() -> None:
    from tritonq import errors

    for name, kind in inspect.getmembers(errors, inspect.isclass):
        assert issubclass(kind, errors.TritonqError), name
        assert name in tritonq.__all__, name
