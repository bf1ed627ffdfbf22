"""Asks an ASGI application without a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx


class Browser:
    """Each request is made in an event loop of its own; redirects are not followed."""

    def __init__(self, app: Any, headers: dict[str, str] | None = None) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._headers = headers or {}

    def get(self, path: str) -> httpx.Response:
        return self.ask("GET", path)

    def ask(self, method: str, path: str, content: str = "", **headers: str) -> httpx.Response:
        """`headers` with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return asyncio.run(self._ask(method, path, content, self._headers | named))

    async def _ask(self, method: str, path: str, content: str, headers: dict[str, str]) -> httpx.Response:
        async with httpx.AsyncClient(transport=self._transport, base_url="http://dashboard") as client:
            return await client.request(method, path, content=content or None, headers=headers)
