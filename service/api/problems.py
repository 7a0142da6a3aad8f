"""Errors as RFC 9457 problem JSON with a stable ``code``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from stmixer.service.api.request_log import note_refusal
from stmixer.service.errors import CapacityError, StmixerError
from stmixer.service.logs import REQUEST_ID
from stmixer.service.schemas import Problem

PROBLEM_JSON = "application/problem+json"
CLIENT_GONE = 499


def problems_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route can answer instead, for the OpenAPI document."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_JSON: {"schema": Problem.model_json_schema()}},
        }
        for status in statuses
    }


def problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """One problem document."""
    return JSONResponse(problem_body(status, code, detail), status, headers, media_type=PROBLEM_JSON)


def problem_body(status: int, code: str, detail: str) -> dict[str, object]:
    """Its members."""
    title, request_id = HTTPStatus(status).phrase, REQUEST_ID.get()
    return Problem(title=title, status=status, code=code, detail=detail, request_id=request_id).model_dump()


def problem_of(error: StmixerError) -> JSONResponse:
    """An error of ours as a document, with the header that its status asks for."""
    headers = None
    if isinstance(error, CapacityError):
        headers = {"Retry-After": str(error.retry_after_s)}
    elif error.status == HTTPStatus.UNAUTHORIZED:
        headers = {"WWW-Authenticate": "Bearer"}
    return problem(error.status, error.code, str(error), headers)


def said_of(errors: Sequence[Mapping[str, Any]]) -> str:
    """What pydantic found wrong, by the names of fields."""
    return "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in errors)


def install(app: FastAPI) -> None:
    """Give every error of the application this form."""

    @app.exception_handler(StmixerError)
    async def _stmixer(request: Request, error: StmixerError) -> Response:
        note_refusal(request.scope["state"], error.code)
        return problem_of(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        note_refusal(request.scope["state"], "bad_option")
        return problem(422, "bad_option", said_of([{**e, "loc": e["loc"][1:] or e["loc"]} for e in error.errors()]))

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        return problem(error.status_code, code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(ClientDisconnect)
    async def _gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_GONE)  # nobody reads it; metrics do

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, __: Exception) -> Response:
        # answered outside of RequestLog, so its header is added here
        headers = {"X-Request-Id": REQUEST_ID.get()}
        return problem(500, "internal", "an error in the service itself; its log says which", headers)
