"""What runs here and how it is: streams, health, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from stmixer.service.api.problems import problem
from stmixer.service.api.service import Service
from stmixer.service.schemas import RunningStreams

router = APIRouter()


@router.get("/v1/status")
async def status(request: Request) -> dict[str, Any]:
    """What an operator should know of this machine: the walls around decoders that it lacks (docs/security.md)."""
    service: Service = request.app.state.service
    return {"missing_walls": await service.all_missing_walls()}


@router.get("/v1/streams")
async def streams(request: Request) -> RunningStreams:
    """What runs now: one's own streams, and everybody's with scope admin, each with the name of its key."""
    return RunningStreams(streams=await request.app.state.service.all_running(request.state.caller))


@router.get("/healthz")
@router.get("/v2/health/live", include_in_schema=False)
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", response_model=None)
@router.get("/v2/health/ready", include_in_schema=False, response_model=None)
async def readyz(request: Request) -> Response:
    """A worker has run its warm-up and takes work."""
    service: Service = request.app.state.service
    if service.engine.ready:
        return JSONResponse({"status": "ready"})
    why = "draining" if service.engine.entry.draining else "no worker is ready"
    return problem(503, "not_ready", why, {"Retry-After": "5"})


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    response_model=None,
    responses={200: {"content": {"application/openmetrics-text": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    service: Service = request.app.state.service
    measured = await service.measured(request.headers.get("accept", ""))
    return Response(measured.text, media_type=measured.content_type)
