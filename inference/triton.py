"""The only place that talks to Triton: gRPC requests out, arrays or our own errors back.

It uses Triton's messages and stubs on `grpc.aio` directly, because `tritonclient`'s own client
reports the gRPC status as text and drops the cause.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

from contract.catalog import Lane
from contract.errors import ModelUnavailable
from inference.failures import failure_from
from inference.wire import Input, inference_request

READY_S_MAX = 2.0
LOAD_S_MAX = 120.0
SECRET_HEADER = "triton-grpc-protocol-admin"  # noqa: S105 -- the header's name
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"

# Of one answer, which is in memory as a whole. Eight times what may be kept of one row: a batch of
# such rows is asked for in smaller parts.
ANSWER_BYTES_MAX = 64 * 1024 * 1024

CHANNEL_OPTIONS = (
    # A batch of images is larger than gRPC's 4 MiB; Triton itself has no limit.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
    # By default the first attempt after an outage comes a second late, the next ones much later.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class Triton:
    """A client of one Triton server. Opens its connection on first use, in the running loop."""

    def __init__(self, address: str) -> None:
        self._address = address  # host:port of its gRPC service
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None
        self._model_infer: Any = None

    async def infer(
        self,
        lane: Lane,
        inputs: Mapping[str, Input],
        outputs: Sequence[str],
        *,
        timeout_s: float,
        hurried: bool = False,
    ) -> dict[str, NDArray[Any]]:
        """Run a model once.

        Args:
            inputs: by name, with the batch dimension first where the model batches; or a list of
                rows without it, all of one shape. BYTES are object arrays of `bytes`.
            outputs: the names of those wanted; nothing else is sent.
            hurried: rather fail with `Overran` than take far longer than the model usually does.
                Our own onnxruntime backend knows what is usual; others take no notice.

        Returns:
            The outputs by name, read-only, row i belonging to row i of the inputs.

        Raises:
            ModelUnavailable: Triton or the model's process does not work; the same request may
                succeed later.
            ModelRejected: the tensors do not fit the model.
            UnusableOutput: the answer is larger than anybody could keep, or than one batch may be.
            BatchFailed: the model failed on this batch, perhaps because of one row; `Overran` if
                it took too long.
        """
        request = inference_request(lane, inputs, outputs, hurried=hurried)
        self._connect()
        try:
            response = await self._model_infer(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise failure_from(error.code(), error.details() or "", lane.model) from error
        return _decoded(response, outputs, lane.model)

    async def is_ready(self, lane: Lane | None = None) -> bool:
        """Whether Triton answers and, if a lane is given, has its model loaded.

        True does not mean that an inference would succeed: Triton does not notice that a model's
        process has died.
        """
        if lane is None:
            call, request = self._service().ServerReady, service_pb2.ServerReadyRequest()
        else:
            call = self._service().ModelReady
            request = service_pb2.ModelReadyRequest(name=lane.model, version=str(lane.version))
        try:
            return bool((await call(request, timeout=READY_S_MAX)).ready)
        except grpc.aio.AioRpcError:
            return False

    async def load(self, model: str, *, secret: str | None) -> None:
        """Load `model`, or load it again if its files have changed.

        Raises:
            ModelUnavailable: with the reason, as Triton gives it.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        metadata = ((SECRET_HEADER, secret),) if secret is not None else ()
        call = self._service().RepositoryModelLoad
        try:
            await call(request, timeout=LOAD_S_MAX, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise ModelUnavailable(f"model {model} cannot be loaded: {error.details()}") from error

    async def close(self) -> None:
        """Close the connection; requests under way fail. It opens again on the next use."""
        if self._channel is not None:
            channel, self._channel, self._stub = self._channel, None, None
            await channel.close()

    def _service(self) -> Any:
        self._connect()
        return self._stub

    def _connect(self) -> None:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._address, options=CHANNEL_OPTIONS)
            self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
            # The stub's own takes messages, which cost more than all the rest: see `wire`.
            self._model_infer = self._channel.unary_unary(
                MODEL_INFER, response_deserializer=service_pb2.ModelInferResponse.FromString
            )


def _decoded(response: Any, outputs: Sequence[str], model: str) -> dict[str, NDArray[Any]]:
    """The arrays of an answer.

    An answer that contradicts itself is what a Triton with the wrong numpy sends: data that are
    not there. It is Triton that is broken then, not the request.
    """
    arrays: dict[str, NDArray[Any]] = {}
    # strict=False: an output may travel outside the raw contents, and is then missing below.
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=False):
        try:
            arrays[output.name] = _array(output.datatype, raw).reshape(tuple(output.shape))
        except (ValueError, TypeError, struct.error) as error:
            raise ModelUnavailable(
                f"model {model} answered with {len(raw)} bytes for output {output.name} "
                f"{output.datatype}{list(output.shape)}"
            ) from error
    if missing := [name for name in outputs if name not in arrays]:
        raise ModelUnavailable(f"model {model} answered without {', '.join(missing)}")
    return arrays


def _array(datatype: str, raw: bytes) -> NDArray[Any]:
    if datatype == "BYTES":
        array: NDArray[Any] = deserialize_bytes_tensor(raw)
        return array
    return np.frombuffer(raw, dtype=triton_to_np_dtype(datatype))
