"""Errors as gRPC statuses, and back: `google.rpc.Status` with one `ErrorInfo` under our domain."""

from __future__ import annotations

from google.rpc import error_details_pb2, status_pb2

from sheepfold_wire.errors import DOMAIN, SheepfoldError, error_for

DETAILS_KEY = "grpc-status-details-bin"


def to_details(error: SheepfoldError) -> bytes:
    """The value of the trailing metadata entry DETAILS_KEY for `error`."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    status = status_pb2.Status(code=int(error.status), message=error.message)
    status.details.add().Pack(info)
    return bytes(status.SerializeToString())


def from_details(details: bytes) -> SheepfoldError | None:
    """The error a sheepfold role put into `details`; None if nobody of ours spoke."""
    try:
        status = status_pb2.Status.FromString(details)
        info = error_details_pb2.ErrorInfo()
        for detail in status.details:
            if detail.Unpack(info) and info.domain == DOMAIN:
                return error_for(info.reason, status.message)
    except Exception:  # protobuf's DecodeError is not exported under one stable name
        return None
    return None
