"""`python -m tests.chaos [--seed N,N,...] [--cells PATTERN]`: plays the fault matrix.

Exit status: 0 when every cell is green, 1 otherwise.
"""

import argparse
import asyncio
import logging
import random
import signal
import sys

from tests.chaos.attack import Result
from tests.chaos.campaign import Campaign, Keep
from tests.chaos.matrix import chosen
from tests.chaos.report import keep_results, line_of, table_of, write_document


def main() -> int:
    arguments = argparse.ArgumentParser(prog="make chaos")
    arguments.add_argument("--seed", default="", help="several by comma; none: any")
    arguments.add_argument("--cells", default="*", help="names with *, by comma")
    arguments.add_argument("--side-by-side", type=int, default=2, help="installations at once")
    arguments.add_argument("--document", action="store_true", help="write docs/reliability.md")
    arguments.add_argument("--keep", choices=("red", "all"), default="red", help="histories")
    given = arguments.parse_args()
    logging.basicConfig(handlers=[logging.NullHandler()])  # what happens is in the histories
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell had it ignored
        signal.signal(number, signal.default_int_handler)
    seeds = [int(seed) for seed in given.seed.split(",") if seed]
    results: list[Result] = []
    for seed in seeds or [random.SystemRandom().randrange(1, 1_000_000)]:
        results += _play(seed, given.cells, given.side_by_side, given.keep)
    if not results:
        return 1
    _say(table_of(results))
    if given.document:
        write_document(results)
    return int(not all(result.is_green for result in results))


def _play(seed: int, pattern: str, side_by_side: int, keep: Keep) -> list[Result]:
    cells = chosen(pattern, seed)
    _say(f"seed {seed}, {len(cells)} cells")
    if not cells:
        return []
    done = 0

    def told(result: Result) -> None:
        nonlocal done
        done += 1
        _say(f"{done:3}/{len(cells)} {line_of(result)}")

    campaign = Campaign(cells, seed, told, keep=keep)
    asyncio.run(campaign.run(min(side_by_side, len(cells))))
    keep_results(campaign.results, seed)
    return campaign.results


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
