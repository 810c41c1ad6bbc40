"""Triton from a client's side: requests, the catalog in its model repository, known answers.

The only importer of tritonclient and grpc.
"""

from inference.failures import Overran
from inference.known_answer import AnswerWrong, check_known_answer
from inference.repository import BrokenRepository, read_catalog
from inference.triton import Triton
from inference.wire import Input

__all__ = [
    "AnswerWrong",
    "BrokenRepository",
    "Input",
    "Overran",
    "Triton",
    "check_known_answer",
    "read_catalog",
]
