#!/bin/sh
# Finds a Python that can run everything here, and hands over to bootstrap.py.
# Plain sh, so that a machine without bash or without Python is told so, not shown a trace.
set -eu
cd "$(dirname "$0")/.."

case "$PWD" in
*[[:space:]]*)
    echo "tritonq cannot live in '$PWD': Triton cannot start from a path with white space. Move the checkout." >&2
    exit 1
    ;;
esac

for python in ${PYTHON:-python3.11 python3.12 python3}; do
    if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
        exec "$python" -P standalone/bootstrap.py "$@"
    fi
done
echo "tritonq needs Python 3.11 or 3.12 on the PATH (Triton's Python stub has no other); tried: ${PYTHON:-python3.11 python3.12 python3}." >&2
echo "On Debian 12: apt-get install python3 python3-pip. To name another: make PYTHON=/path/to/python3.11 ..." >&2
exit 1
