"""Which models an installation offers."""

from pathlib import Path

import pytest

from standalone.models import choose_models, has_vnni
from standalone.server import CannotStart


def repository(root: Path, *, built: tuple[str, ...], unbuilt: tuple[str, ...] = ()) -> Path:
    for name in (*built, *unbuilt):
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").touch()
    for name in built:
        (root / name / "1" / "model.onnx").touch()
    return root


BOTH = ("efficientnet_lite0", "efficientnet_lite0_int8")


def test_int8_comes_first_where_the_cpu_multiplies_bytes(tmp_path: Path) -> None:
    assert choose_models(repository(tmp_path, built=BOTH), vnni=True) == BOTH[::-1]


def test_int8_is_not_offered_where_the_cpu_does_not(tmp_path: Path) -> None:
    assert choose_models(repository(tmp_path, built=BOTH), vnni=False) == ("efficientnet_lite0",)


def test_int8_is_offered_anywhere_to_who_asks_for_it(tmp_path: Path) -> None:
    found = repository(tmp_path, built=BOTH)
    wanted = ("efficientnet_lite0_int8",)
    assert choose_models(found, wanted=wanted, vnni=False) == wanted


def test_a_users_own_model_follows_ours(tmp_path: Path) -> None:
    found = repository(tmp_path, built=("aardvark", "identity", "efficientnet_lite0"))
    assert choose_models(found, vnni=False) == ("efficientnet_lite0", "identity", "aardvark")


def test_only_models_with_weights_are_offered(tmp_path: Path) -> None:
    found = repository(tmp_path, built=("identity",), unbuilt=("efficientnet_lite0",))
    assert choose_models(found, vnni=False) == ("identity",)


def test_a_repository_without_weights_is_refused_with_the_remedy(tmp_path: Path) -> None:
    found = repository(tmp_path, built=(), unbuilt=("identity",))
    with pytest.raises(CannotStart, match="make weights"):
        choose_models(found)
    with pytest.raises(CannotStart, match="identity has no weights yet"):
        choose_models(
            repository(tmp_path / "b", built=BOTH, unbuilt=("identity",)), wanted=("identity",)
        )


def test_an_unknown_model_is_refused_naming_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"no model nought .* identity"):
        choose_models(repository(tmp_path, built=("identity",)), wanted=("nought",))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx512_vnni sse", True),
        ("fpu avx_vnni", True),
        ("fpu avx512f vnni", False),
        ("", False),
    ],
)
def test_vnni_is_read_from_the_cpus_flags(tmp_path: Path, flags: str, *, expected: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\nbugs : avx_vnni\n")
    assert has_vnni(cpuinfo) is expected


def test_a_cpu_that_says_nothing_has_no_vnni(tmp_path: Path) -> None:
    assert not has_vnni(tmp_path / "absent")
