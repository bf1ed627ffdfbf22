"""Asks a FastAPI application without a socket."""

from __future__ import annotations

import asyncio

import httpx
from fastapi import FastAPI


class Browser:
    """Each `get` is one request in an event loop of its own."""

    def __init__(self, app: FastAPI) -> None:
        self._transport = httpx.ASGITransport(app)

    def get(self, path: str) -> httpx.Response:
        return asyncio.run(self._get(path))

    async def _get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=self._transport, base_url="http://dashboard") as client:
            return await client.get(path)
