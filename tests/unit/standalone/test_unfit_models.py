"""What is done about a model that does not infer though Triton says it is ready."""

from standalone.stubs import RELOAD_AFTER_S, RESTART_AFTER_S, UnfitModels

UNFIT = {"m": "not healthy"}


def test_a_short_spell_is_left_to_pass() -> None:
    models = UnfitModels()
    assert models.heard(UNFIT, 0.0) is None
    assert models.heard(UNFIT, RELOAD_AFTER_S - 1) is None


def test_a_long_spell_gets_a_reload_then_a_restart_then_nothing() -> None:
    models = UnfitModels()
    models.heard(UNFIT, 0.0)
    now = RELOAD_AFTER_S
    assert models.heard(UNFIT, now) == "m"
    assert models.may_reload("m", now)
    assert models.heard(UNFIT, now + RESTART_AFTER_S - 1) is None
    now += RESTART_AFTER_S
    assert models.heard(UNFIT, now) == "m"
    assert not models.may_reload("m", now)
    assert models.heard(UNFIT, now + 100 * RESTART_AFTER_S) is None


def test_a_model_that_was_well_in_between_begins_anew() -> None:
    models = UnfitModels()
    models.heard(UNFIT, 0.0)
    models.heard({}, RELOAD_AFTER_S - 1)
    assert models.heard(UNFIT, RELOAD_AFTER_S) is None


def test_after_a_restart_a_model_gets_its_time_again_and_no_measure_more() -> None:
    models = UnfitModels()
    models.heard(UNFIT, 0.0)
    models.restarted(RELOAD_AFTER_S)
    assert models.heard(UNFIT, RELOAD_AFTER_S) is None
    now = 2 * RELOAD_AFTER_S
    assert models.heard(UNFIT, now) == "m"
    assert models.may_reload("m", now)
    now += RESTART_AFTER_S
    assert not models.may_reload("m", now)
    models.restarted(now)
    assert models.heard(UNFIT, now + 100 * RESTART_AFTER_S) is None


def test_each_model_has_its_own_spell() -> None:
    models = UnfitModels()
    models.heard({"a": ""}, 0.0)
    models.heard({"a": "", "b": ""}, RELOAD_AFTER_S - 1)
    assert models.heard({"a": "", "b": ""}, RELOAD_AFTER_S) == "a"
    models.may_reload("a", RELOAD_AFTER_S)
    assert models.heard({"a": "", "b": ""}, 2 * RELOAD_AFTER_S - 1) == "b"
