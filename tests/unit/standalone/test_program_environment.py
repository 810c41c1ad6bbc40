"""What our own programs get to see of the environment."""

from standalone.program import program_environment
from standalone.server import KEEP_MEMORY


def test_our_settings_win_over_the_users() -> None:
    found = program_environment("gateway", {"PORT": "8080"}, {"GATEWAY_PORT": "1"})
    assert found["GATEWAY_PORT"] == "8080"


def test_a_user_may_set_what_we_do_not() -> None:
    found = program_environment("gateway", {}, {"GATEWAY_BODY_WAIT_S": "5"})
    assert found["GATEWAY_BODY_WAIT_S"] == "5"


def test_a_secret_of_ours_never_meets_the_users_other_spelling_of_it() -> None:
    user = {"GATEWAY_NATS_TOKEN": "plain", "GATEWAY_POSTGRES_DSN_FILE": "/elsewhere"}
    found = program_environment(
        "gateway", {"NATS_TOKEN_FILE": "/ours", "POSTGRES_DSN": "postgresql:"}, user
    )
    assert "GATEWAY_NATS_TOKEN" not in found
    assert "GATEWAY_POSTGRES_DSN_FILE" not in found


def test_nothing_else_of_the_environment_is_passed_on() -> None:
    user = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x", "PYTHONPATH": "y", "DISPATCHER_NAME": "z"}
    ours = {"PYTHONUNBUFFERED": "1", **KEEP_MEMORY}
    assert program_environment("gateway", {}, user) == {"PATH": "/bin", **ours}
