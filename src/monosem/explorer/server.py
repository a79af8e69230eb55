"""The explorer: the pages of feature databases on 127.0.0.1, read-only, with no word to the network.

A page of another site must not read it: the Host header has to be this machine's own name (against
DNS rebinding), nothing may frame it, and the pages' policy allows their own script only.
"""

import secrets
import socket
from collections.abc import Mapping
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware

from monosem.core.errors import ConfigError
from monosem.explorer import pages
from monosem.explorer.metrics import Metrics
from monosem.explorer.pages import Place, Sort, Status
from monosem.explorer.summary import summarise
from monosem.features.database import FeatureDatabase
from monosem.rendering.page import POLICY

HOST = "127.0.0.1"

HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def create_app(
    databases: Mapping[str, FeatureDatabase], metrics: Mapping[str, Metrics] | None = None
) -> FastAPI:
    """Return the explorer of `databases` by name."""
    if not databases:
        raise ConfigError("The explorer needs a feature database, got none. Pass at least one.")
    # No generated documentation: those pages load scripts from a CDN.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _guard(app)
    _errors(app, list(databases))
    _routes(app, databases, metrics or {})
    return app


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve `app` on a socket bound to 127.0.0.1, until interrupted."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listener])


def _guard(app: FastAPI) -> None:
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])

    # Added last, it stands outside: an answer that refuses a host name has the headers too.
    @app.middleware("http")
    async def headers(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    _ = headers


def _errors(app: FastAPI, names: list[str]) -> None:
    place = Place(names=names)

    @app.exception_handler(HTTPException)
    async def missing(_: Request, error: HTTPException) -> HTMLResponse:
        title = "Not here" if error.status_code == 404 else "Not possible"
        return _html(pages.message_page(place, title, str(error.detail)), error.status_code)

    @app.exception_handler(RequestValidationError)
    async def unreadable(_: Request, error: RequestValidationError) -> HTMLResponse:
        said = "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())
        return _html(pages.message_page(place, "Not understood", said), 400)

    _ = missing, unreadable


def _asked(
    search: str = "",
    status: Status = "",
    sort: Sort = "density",
    descending: bool = True,
    page: Annotated[int, Query(ge=0, le=10**6)] = 0,
) -> pages.Query:
    """Return what the address asks of a list."""
    return pages.Query(search=search, status=status, sort=sort, descending=descending, page=page)


Asked = Annotated[pages.Query, Depends(_asked)]


def _routes(
    app: FastAPI, databases: Mapping[str, FeatureDatabase], metrics: Mapping[str, Metrics]
) -> None:
    summaries = [summarise(name, database) for name, database in databases.items()]

    def open_(name: str) -> tuple[Place, FeatureDatabase]:
        if name not in databases:
            raise HTTPException(404, f"There is no dictionary “{name}” here.")
        return Place(names=list(databases), name=name), databases[name]

    @app.get("/")
    async def front() -> HTMLResponse:
        return _html(pages.summary_page(Place(names=list(databases)), summaries, metrics))

    @app.get("/{name}/")
    async def listing(name: str, query: Asked) -> HTMLResponse:
        place, database = open_(name)
        return _html(pages.list_page(place, database, query))

    @app.get("/{name}/random")
    async def random(name: str) -> RedirectResponse:
        place, database = open_(name)
        return RedirectResponse(f"{pages.base(place.name)}{secrets.randbelow(database.n_latents)}")

    @app.get("/{name}/{index}")
    async def feature(
        name: str, index: int, query: Asked, at: Annotated[int | None, Query(ge=0, le=10**9)] = None
    ) -> HTMLResponse:
        place, database = open_(name)
        if not 0 <= index < database.n_latents:
            raise HTTPException(404, f"{name} has features 0 to {database.n_latents - 1:,}.")
        return _html(pages.feature_page(place, database, index, query, at))

    _ = front, listing, random, feature


def _html(content: Markup, status: int = 200) -> HTMLResponse:
    return HTMLResponse(str(content), status_code=status)
