"""Models: what is served, what each knows, and how another one takes over while streams run."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from stmixer.model.bundled import bundled
from stmixer.model.named import weights_named
from stmixer.service.access import Caller
from stmixer.service.api.problems import problems_of
from stmixer.service.api.service import Service
from stmixer.service.engine.served import ServedModel
from stmixer.service.engine.worker import WeightsSource
from stmixer.service.errors import InputError
from stmixer.service.wire import Wire

router = APIRouter()
"""What may be asked."""
changes = APIRouter()
"""What an admin may do."""

ONE = "/v1/models/{name}"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
SUFFIXES = (".safetensors", ".onnx")

LeftBehind = Literal["keep", "restart"]


class ModelOrder(Wire):
    """``POST /v1/models``: ``weights``: bundled or fetched ones by name, or a file by its path below ``--weights-dir``.

    ``name`` is what the model is called from then on (default: that of the weights). ``default``: it takes over from
    the default model once it can serve; ``streams``, as in ``DefaultOrder``, goes with that.
    """

    weights: str = Field(min_length=1, max_length=1000)
    name: str | None = Field(None, pattern=NAME)
    default: bool = False
    streams: LeftBehind = "keep"


class DefaultOrder(Wire):
    """``POST /v1/models/{name}/default``. ``streams``: what becomes of live ones that it cannot go on with, for its
    labels, clip or pictures are others: they ``keep`` their model until they end, or ``restart`` with this one."""

    streams: LeftBehind = "keep"


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The models, the default one first: what each is, on what it was trained, its licence, how good it is, and what it
    wants to see.

    ``state``: ``serving``, ``ready`` (it could), ``loading``, ``failed`` with its ``reason``. ``teach``: whether this
    service can be taught another one.
    """
    service: Service = request.app.state.service
    first = sorted(service.engine.models.all, key=lambda served: not served.is_default)
    told = [_told(served, request) for served in first]
    return {"models": told, "teach": service.teaching is not None}


@router.get(ONE, responses=problems_of(404))
async def model(request: Request, name: str) -> dict[str, Any]:
    """One of them."""
    return _told(_named(request, name), request)


@changes.post("/v1/models", status_code=202, responses=problems_of(403, 409, 422, 503))
async def load(request: Request, order: ModelOrder) -> JSONResponse:
    """Load another model beside those that serve; ``Location`` says how it goes. Scope admin."""
    service = _of_an_admin(request)
    service.engine.entry.check_staying()
    if order.streams == "restart" and not order.default:
        raise InputError("bad_option", "streams: restart goes with default: true")
    try:
        source = await asyncio.to_thread(source_of, order.weights, service.settings.weights_dir)
    except (OSError, ValueError):  # a name that no file system takes
        raise InputError("no_such_weights", "there are no such weights") from None
    name = order.name or _name_of(source)
    served = service.engine.load(name, source, default=order.default, restart=order.streams == "restart")
    where = f"{request.scope.get('root_path', '')}/v1/models/{served.name}"
    return JSONResponse(_told(served, request), 202, {"Location": where})


@changes.post(ONE + "/default", responses=problems_of(403, 404, 409, 422))
async def make_default(request: Request, name: str, order: DefaultOrder | None = None) -> dict[str, Any]:
    """Make it the default one: it takes over what runs, where it sees and tells alike. Scope admin."""
    service, served = _of_an_admin(request), _named(request, name)
    if not served.ready:
        state = "without a worker" if served.started else served.state
        raise InputError("model_not_ready", f"{name} is {state}", 409)
    await service.engine.make_default(name, restart=order is not None and order.streams == "restart")
    return _told(served, request)


@changes.delete(ONE, status_code=204, response_class=Response, responses=problems_of(403, 404, 409))
async def forget(request: Request, name: str) -> Response:
    """End a model that serves nobody. Scope admin."""
    await _of_an_admin(request).engine.models.forget(name)
    return Response(status_code=204)


@router.get("/v1/labels", responses=problems_of(422))
async def labels(request: Request, model: Annotated[str | None, Query(max_length=100)] = None) -> dict[str, Any]:
    """The actions that a model names, the default one: each label's number in its data set, and its name."""
    service: Service = request.app.state.service
    served = service.engine.models.get(model)
    known = served.info.labels
    return {"model": served.name, "labels": [{"id": label.id, "name": label.name} for label in known]}


def source_of(weights: str, folder: Path | None) -> WeightsSource:
    """Weights of this name, bundled or fetched, or a file below the folder. Raises InputError."""
    if "/" not in weights and weights_named(weights) is not None:
        return WeightsSource(None, Path(weights))
    if folder is None:
        names = ", ".join(bundled())
        raise InputError("no_such_weights", f"there are no weights {weights!r}; there is {names}, and no --weights-dir")
    root = folder.resolve()
    file = (root / weights).resolve()
    if not file.is_relative_to(root) or file.suffix not in SUFFIXES or not file.is_file():
        raise InputError("no_such_weights", f"{weights!r} is no .safetensors or .onnx file below --weights-dir")
    return WeightsSource(None, file)


def _name_of(source: WeightsSource) -> str:
    """What weights are called of which nobody says it. Raises InputError."""
    assert source.weights is not None
    name = source.weights.name.removesuffix(source.weights.suffix if source.weights.suffix in SUFFIXES else "")
    if re.fullmatch(NAME, name) is None:
        raise InputError("bad_option", f"name: give {name!r} one of letters, digits, dots, dashes and underscores")
    return name


def _of_an_admin(request: Request) -> Service:
    """Raises AccessError for anybody else, InputError where models stay as they are."""
    caller: Caller = request.state.caller
    caller.allow("admin")
    service: Service = request.app.state.service
    if not service.models_change:
        raise InputError("models_fixed", "the models of a cluster change when it is deployed anew", 409)
    return service


def _named(request: Request, name: str) -> ServedModel:
    service: Service = request.app.state.service
    found = service.engine.models.named(name)
    if found is None:
        raise InputError("unknown_model", f"there is no model {name!r} here", 404)
    return found


def _told(served: ServedModel, request: Request) -> dict[str, Any]:
    caller: Caller = request.state.caller
    head = {"name": served.name, "default": served.is_default, "state": served.state, "digest": served.digest}
    if served.failed is not None:
        return head | {"reason": served.failed if caller.sees_all else "an admin is told why"}  # it may name files
    if not served.started:
        return head
    info = served.info
    return head | {
        "trained": info.trained,
        "trained_on": info.trained_on,
        "licence": info.licence,
        "source": info.source,
        "metrics": info.metrics,
        "classes": len(info.labels),
        "device": served.device,
        "runtime": info.runtime,
        "precision": info.precision,
        "chosen": info.chosen,
        "frames": info.config.clip.frames,
        "stride": info.config.clip.stride,
        "short_side": info.config.preprocess.short_side,
        "lookahead_ms": float(info.window.lookahead_s * 1000),
    }
