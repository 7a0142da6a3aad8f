"""What runs here and how it is: models, labels, health, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import exposition
from starlette.responses import JSONResponse, PlainTextResponse, Response

from stmixer.service.api.problems import problem
from stmixer.service.api.service import Service
from stmixer.service.schemas import RunningStreams

router = APIRouter()


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The served model: what it is, on what it was trained, its licence, how good it is, and what it wants to see;
    and whether this service can be taught another one."""
    service: Service = request.app.state.service
    model = service.engine.model
    clip = model.config.clip
    return {
        "models": [
            {
                "name": model.name,
                "default": True,
                "trained": model.trained,
                "trained_on": model.trained_on,
                "licence": model.licence,
                "source": model.source,
                "metrics": model.metrics,
                "classes": len(model.labels),
                "device": model.device,
                "runtime": model.runtime,
                "precision": model.precision,
                "chosen": model.chosen,
                "frames": clip.frames,
                "stride": clip.stride,
                "short_side": model.config.preprocess.short_side,
                "lookahead_ms": float(model.window.lookahead_s * 1000),
            }
        ],
        "teach": service.teaching is not None,
    }


@router.get("/v1/labels")
async def labels(request: Request) -> dict[str, Any]:
    """The actions it names: each label's number in its data set, and its name."""
    model = request.app.state.service.engine.model
    return {"model": model.name, "labels": [{"id": label.id, "name": label.name} for label in model.labels]}


@router.get("/v1/status")
async def status(request: Request) -> dict[str, Any]:
    """What an operator should know of this machine: the walls around decoders that it lacks (docs/security.md)."""
    return {"missing_walls": request.app.state.service.missing_walls}


@router.get("/v1/streams")
async def streams(request: Request) -> RunningStreams:
    """What runs now: one's own streams, and everybody's with scope admin, each with the name of its key."""
    return RunningStreams(streams=request.app.state.service.running(request.state.caller))


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
    why = "draining" if service.engine.draining else "no worker is ready"
    return problem(503, "not_ready", why, {"Retry-After": "5"})


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    response_model=None,
    responses={200: {"content": {"application/openmetrics-text": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    registry = request.app.state.service.metrics.registry
    encoder, content_type = exposition.choose_encoder(request.headers.get("accept", ""))
    return Response(encoder(registry), media_type=content_type)
