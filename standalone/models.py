"""Which models an installation offers, in order of preference."""

from collections.abc import Sequence
from pathlib import Path

from standalone.server import CannotStart

# The first of a task is its default. int8 is faster only where the CPU multiplies bytes.
PREFERRED = ("efficientnet_lite0_int8", "efficientnet_lite0", "identity")
NEEDS_VNNI = frozenset({"efficientnet_lite0_int8"})
VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni"})


def choose_models(
    repository: Path, *, wanted: Sequence[str] = (), vnni: bool | None = None
) -> tuple[str, ...]:
    """The models to serve: `wanted`, or all that are built and suit this CPU, the preferred first.

    Raises:
        CannotStart: a wanted one is not there, or none is.
    """
    built = built_models(repository)
    if wanted:
        for name in wanted:
            if name not in built:
                raise CannotStart(_missing(repository, name))
        return tuple(dict.fromkeys(wanted))
    if not built:
        raise CannotStart(f"no model in {repository} has weights yet; run `make weights`")
    if vnni is None:
        vnni = has_vnni()
    left_out = frozenset() if vnni else NEEDS_VNNI
    preferred = [name for name in PREFERRED if name in built]
    others = sorted(built.difference(preferred))
    return tuple(name for name in (*preferred, *others) if name not in left_out)


def built_models(repository: Path) -> set[str]:
    """Models that have a configuration and at least one version with a file in it."""
    return {
        config.parent.name
        for config in repository.glob("*/config.pbtxt")
        if any(config.parent.glob("[1-9]*/model.*"))
    }


def has_vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has instructions for int8 dot products (x86 only)."""
    flags = next((line for line in _lines(cpuinfo) if line.startswith("flags")), "")
    return not VNNI_FLAGS.isdisjoint(flags.split())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _missing(repository: Path, name: str) -> str:
    if (repository / name / "config.pbtxt").exists():
        return f"model {name} has no weights yet; run `make weights`"
    known = ", ".join(sorted(path.parent.name for path in repository.glob("*/config.pbtxt")))
    return f"there is no model {name} in {repository}; there are {known or 'none'}"
