"""A probe: python health.py SERVICE HOST:PORT CA_FILE DOMAIN; exit code 0 if the server says SERVING by TLS.

It also checks that the certificate is for $POD_NAME.DOMAIN, the name by which this pod is reached.
"""

import os
import sys

import grpc

SECONDS_MAX = 8
SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse with its only field set to 1


def ask(service: str, target: str, ca: bytes, name: str) -> bytes:
    request = b"\x0a" + bytes([len(service)]) + service.encode("ascii")
    options = [("grpc.ssl_target_name_override", name), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(target, grpc.ssl_channel_credentials(ca), options) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", None, None)
        answer: bytes = check(request, timeout=SECONDS_MAX)
        return answer


def main() -> int:
    service, target, ca_file, domain = sys.argv[1:]
    with open(ca_file, "rb") as file:
        ca = file.read()
    try:
        answer = ask(service, target, ca, f"{os.environ['POD_NAME']}.{domain}")
    except grpc.RpcError as error:
        print(f"{service}: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    if answer != SERVING:
        print(f"{service}: not serving", file=sys.stderr)
    return 0 if answer == SERVING else 1


if __name__ == "__main__":
    sys.exit(main())
