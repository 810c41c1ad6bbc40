"""`python -m tritonq`: the command where its script is not on the PATH."""

from tritonq.cli import main

main()
