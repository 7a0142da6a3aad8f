"""Errors as RFC 9457 problem JSON with a stable ``code``."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from service.errors import CapacityError, StmixerError


def problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """One problem document."""
    return JSONResponse(problem_body(status, code, detail), status, headers, media_type="application/problem+json")


def problem_body(status: int, code: str, detail: str) -> dict[str, object]:
    """Its members."""
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "code": code, "detail": detail}


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
