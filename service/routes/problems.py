"""Errors as RFC 9457 problem JSON with a stable ``code``."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from service.errors import CapacityError, StmixerError
from service.schemas import Problem

PROBLEM_JSON = "application/problem+json"
CLIENT_GONE = 499
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": HTTPStatus(status).phrase,
        "content": {PROBLEM_JSON: {"schema": Problem.model_json_schema()}},
    }
    for status in (400, 403, 408, 413, 415, 422, 503)
}
"""What /v1/detect can answer instead, for the OpenAPI document."""


def problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """One problem document."""
    return JSONResponse(problem_body(status, code, detail), status, headers, media_type=PROBLEM_JSON)


def problem_body(status: int, code: str, detail: str) -> dict[str, object]:
    """Its members."""
    return Problem(title=HTTPStatus(status).phrase, status=status, code=code, detail=detail).model_dump()


def install(app: FastAPI) -> None:
    """Give every error of the application this form."""

    @app.exception_handler(StmixerError)
    async def _stmixer(_: Request, error: StmixerError) -> Response:
        headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, CapacityError) else None
        return problem(error.status, error.code, str(error), headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        details = "; ".join(f"{'.'.join(map(str, e['loc'][1:])) or e['loc'][0]}: {e['msg']}" for e in error.errors())
        return problem(422, "bad_option", details)

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        return problem(error.status_code, code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(ClientDisconnect)
    async def _gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_GONE)  # nobody reads it; metrics do

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, __: Exception) -> Response:
        return problem(500, "internal", "an error in the service itself; its log says which")
