#!/bin/sh
# Asks a public service which of the locked packages have known vulnerabilities.
# Exit status: 0 none is known, 1 some are, 2 nobody could be asked: nothing has been audited then.
set -eu
cd "$(dirname "$0")/.."
tool=.cache/audit
report=$tool/report.txt
if [ ! -x $tool/bin/pip-audit ]; then
    .venv/bin/python -m venv $tool
    $tool/bin/python -m pip install --quiet --disable-pip-version-check "pip-audit>=2.9,<3" || { rm -rf $tool; echo "pip-audit cannot be installed here; nothing has been audited." >&2; exit 2; }
fi
status=0
# The other locks are parts of dev.lock (tests/house/test_locks.py).
for lock in requirements/dev.lock requirements/bench.lock requirements/triton.lock; do
    echo "== $lock"
    # `pypi` is the packages' own index; where its answers are not mirrored, `osv` may be reached.
    for service in pypi osv; do
        answer=0
        timeout 300 $tool/bin/pip-audit --strict --progress-spinner off --vulnerability-service $service \
            --no-deps --disable-pip --require-hashes --requirement "$lock" >$report 2>&1 || answer=$?
        if [ $answer = 0 ]; then
            echo "no known vulnerability ($service)"
            break
        elif grep -q "^Found [0-9]* known vulnerabilit" $report; then
            cat $report
            status=1
            break
        fi
        echo "$service does not answer for these packages: $(tail -n 1 $report | cut -c 1-120)"
    done
    if [ $answer != 0 ] && [ $status = 0 ]; then
        status=2
    fi
done
[ $status != 2 ] || echo "No vulnerability service can be reached from here: not everything has been audited. What is installed is pinned by hash (requirements/*.lock); run this where the internet is." >&2
exit $status
