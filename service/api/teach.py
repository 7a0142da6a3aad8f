"""``/v1/teach``: the one lesson of this service, where ``--allow-teach`` allows it. With scope ``admin`` alone.

What is below ``/v1/teach/trial`` is the API of the model that was just taught: ``v1/detect``, ``v1/streams/ws``,
``v1/models`` and ``v1/labels``, while a trial runs.
"""

from __future__ import annotations

import tempfile
from typing import Annotated, BinaryIO

from fastapi import APIRouter, FastAPI, Path, Query, Request
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from stmixer.service.access import Caller
from stmixer.service.api import detect, meta, models, problems, stream_ws
from stmixer.service.api.answers import MP4, until_disconnect
from stmixer.service.api.previews import media
from stmixer.service.api.service import Service
from stmixer.service.api.uploads import received_file, storage_errors
from stmixer.service.errors import InputError
from stmixer.service.logs import REQUEST_ID
from stmixer.service.sources.rendering import render
from stmixer.service.teach_schemas import KeptModel, Teach, TeachClip, TeachOrder
from stmixer.service.teaching.names import label_of, scene_of
from stmixer.service.teaching.shelf import NewClip
from stmixer.service.teaching.teaching import Teaching

router = APIRouter()

TEACH = "/v1/teach"
TRIAL = TEACH + "/trial"
DRAFT_CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
"""Of a page that holds all it shows."""
TAKEN_IN = "drawn, or encoded anew for the lesson,"
NOT_TAKEN_IN = "this clip could not be encoded anew ({}); convert it to H.264 in MP4, or record it again"
_NONE = problems.problems_of(401, 403, 404, 429)
_BUSY = problems.problems_of(409, 503)
_UPLOADED = problems.problems_of(400, 408, 413, 415, 422)
_VIDEO = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "properties": {"file": _VIDEO["schema"]}, "required": ["file"]}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": _VIDEO, "multipart/form-data": _FORM},
    }
}

Label = Annotated[str, Query(max_length=200, description="what people do in it; `none`: none of what is taught")]
Scene = Annotated[str | None, Query(max_length=200, description="clips that were recorded in one go have one scene")]
ClipId = Annotated[int, Path(ge=1, le=10**9)]


@router.get(TEACH, responses=_NONE)
async def lesson(request: Request) -> Teach:
    """How the lesson stands: its clips, what the training tells, what came of it, and what was kept of earlier ones."""
    teaching, service = _teaching(request)
    return await teaching.state(service.trial.told)


@router.delete(TEACH, status_code=204, responses=_NONE | _BUSY)
async def discard(request: Request) -> Response:
    """End it and delete it: clips, drafts and what was learned. What was kept stays."""
    teaching, service = _teaching(request)
    await service.trial.end()
    await teaching.discard()
    return Response(status_code=204)


@router.post(
    TEACH + "/clips",
    status_code=201,
    openapi_extra=_BODY,
    response_model=TeachClip,
    responses=_NONE | _BUSY | _UPLOADED,
)
async def add_clip(request: Request, label: Label, scene: Scene = None) -> TeachClip:
    """A clip of people who do ``label``: a video as the body or as multipart ``file``, of at most a minute.

    It is decoded in a cell as any upload, and encoded anew; that is what is kept, until the lesson is discarded.
    """
    teaching, service = _teaching(request)
    caller: Caller = request.state.caller
    label, scene = label_of(label), None if scene is None else scene_of(scene)
    service.engine.entry.check_staying()
    place = service.place(caller)
    try:
        with service.uploads.one_more(caller) as upload:
            async with received_file(request, service.settings, caller, service.uploads, upload) as (file, _):
                clip = await teaching.begin_clip(label, scene)
                try:
                    address = request.client.host if request.client else ""
                    await until_disconnect(request, _encoded_anew(service, teaching, caller, address, file, clip))
                except BaseException:
                    teaching.abandon_clip(clip)
                    raise
                return await teaching.commit_clip(clip)
    finally:
        place.release()


async def _encoded_anew(
    service: Service, teaching: Teaching, caller: Caller, address: str, file: BinaryIO, clip: NewClip
) -> None:
    """The video's pictures and nothing else of it: a drawing in which nobody is drawn. Raises InputError,
    CapacityError."""

    def come(done_s: float, of_s: float | None) -> None:
        one.come(done_s, of_s)
        teaching.check_growing(clip)

    settings = service.settings.model_copy(update={"max_duration_s": teaching.most_clip_s})
    with storage_errors("a clip"):
        nobody = tempfile.TemporaryFile(prefix="stmixer-")  # noqa: SIM115
    with nobody:
        async with service.drawings.one_more(REQUEST_ID.get(), caller, address, done=TAKEN_IN) as one:
            await render(
                service.pool, settings, service.metrics, trained=True,
                source_fd=file.fileno(), target_fd=clip.fd, drawing_fd=nobody.fileno(), progress=come,
                failed=NOT_TAKEN_IN,
            )  # fmt: skip


@router.get(TEACH + "/clips/{clip_id}", response_model=None, responses=media(MP4) | _NONE | problems.problems_of(422))
async def clip(request: Request, clip_id: ClipId) -> Response:
    """A clip, as it is learned from."""
    teaching, _ = _teaching(request)
    return FileResponse(await teaching.clip(clip_id), media_type=MP4, headers={"Cache-Control": "no-store"})


@router.delete(TEACH + "/clips/{clip_id}", status_code=204, responses=_NONE | _BUSY | problems.problems_of(422))
async def remove_clip(request: Request, clip_id: ClipId) -> Response:
    """Delete one."""
    teaching, _ = _teaching(request)
    await teaching.remove_clip(clip_id)
    return Response(status_code=204)


@router.post(TEACH + "/lesson", status_code=202, responses=_NONE | _BUSY | problems.problems_of(422))
async def begin(request: Request, order: TeachOrder) -> Teach:
    """Learn from the clips that there are, in a process of low priority; what was done before is not done again."""
    teaching, service = _teaching(request)
    service.engine.entry.check_staying()
    await teaching.begin(order.name)
    await service.trial.end()
    return await teaching.state(service.trial.told)


@router.delete(TEACH + "/lesson", status_code=204, responses=_NONE)
async def stop(request: Request) -> Response:
    """End the learning, if it runs, within 2 s; what is done is kept."""
    teaching, _ = _teaching(request)
    await teaching.stop()
    return Response(status_code=204)


@router.get(TEACH + "/draft.html", response_model=None, responses=media("text/html") | _NONE)
async def draft(request: Request) -> Response:
    """A page of pictures: who was taken for the actor of each clip."""
    teaching, _ = _teaching(request)
    page = teaching.draft
    if page is None:
        raise InputError("not_found", "nobody has been looked for in the clips yet", 404)
    headers = {"Cache-Control": "no-store", "Content-Security-Policy": DRAFT_CSP}
    return FileResponse(page, media_type="text/html", headers=headers)


@router.post(TEACH + "/kept", status_code=201, responses=_NONE | _BUSY)
async def keep(request: Request) -> KeptModel:
    """Keep what was learned: its weights are moved below ``--teach-dir``. The clips stay until they are discarded."""
    teaching, service = _teaching(request)
    kept = await teaching.keep()
    await service.trial.end()
    return kept


@router.post(TRIAL, status_code=202, responses=_NONE | _BUSY)
async def begin_trial(request: Request) -> Teach:
    """Serve what was learned below this address, beside the model that is served, until that is ended."""
    teaching, service = _teaching(request)
    service.engine.entry.check_staying()
    await service.trial.begin(teaching.outcome)
    return await teaching.state(service.trial.told)


@router.delete(TRIAL, status_code=204, responses=_NONE)
async def end_trial(request: Request) -> Response:
    """End that, and what runs on it."""
    _, service = _teaching(request)
    await service.trial.end()
    return Response(status_code=204)


def _teaching(request: Request) -> tuple[Teaching, Service]:
    """Raises InputError (404) where it is not allowed."""
    service: Service = request.app.state.service
    if service.teaching is None:
        raise InputError("not_found", "this service takes no lessons; start it with --allow-teach", 404)
    return service.teaching, service


class TrialDoor:
    """What is below ``/v1/teach/trial``: the API of the trial that runs, and nothing where none does."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._app: FastAPI | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on."""
        await self._behind(scope["type"])(scope, receive, send)

    def _behind(self, kind: str) -> ASGIApp:
        trial = self._service.trial.service
        if trial is None:
            self._app = None
            absent = problems.problem(404, "not_found", "nothing is being tried: POST /v1/teach/trial begins it")
            return _refuse if kind == "websocket" else absent
        if self._app is None or self._app.state.service is not trial:
            self._app = _trial_app(trial)
        return self._app


def _trial_app(service: Service) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    problems.install(app)
    for part in (meta, models, detect, stream_ws):
        app.include_router(part.router)
    app.state.service = service
    return app


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 1013})


def needs_admin(path: str) -> bool:
    """Whether a path is of a lesson or of its trial."""
    return path == TEACH or path.startswith(f"{TEACH}/")
