"""`python -m weights`: build what is not current, saying so line by line, as set-up scripts like.

People use `tritonq build`, which draws a progress bar.
"""

import sys

from weights.builder import Progress, build
from weights.errors import WeightsError
from weights.settings import WeightsSettings

_TENTHS = 10


def main() -> int:
    settings = WeightsSettings()
    said: set[str] = set()

    def report(progress: Progress) -> None:
        percent = progress.done * _TENTHS // progress.total * 10 if progress.total else None
        line = f"{progress.model}: {progress.step}" + (f" {percent} %" if percent else "")
        if line not in said:
            said.add(line)
            _say(line)

    try:
        results = build(
            settings.repository, cache=settings.cache, mirror=settings.mirror, report=report
        )
    except (WeightsError, OSError) as error:
        sys.stderr.write(f"weights: {error}\n")
        return 1
    for built in results:
        _say(f"{built.model}: {'is current' if built.was_current else 'built'}, {built.path}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
