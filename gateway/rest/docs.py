"""The interactive documentation at /docs, complete without the internet.

Swagger UI's files come from the `fastapi-offline` package, of which nothing else is used.
"""

from importlib.resources import files
from pathlib import Path

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

_ASSETS = Path(str(files("fastapi_offline"))) / "static"
_OPENAPI_URL = "/openapi.json"


def docs_routes(title: str) -> list[BaseRoute]:
    """The routes of the documentation; `/` leads there."""

    async def page(_: Request) -> Response:
        return get_swagger_ui_html(
            openapi_url=_OPENAPI_URL,
            title=title,
            swagger_js_url="/docs/assets/swagger-ui-bundle.js",
            swagger_css_url="/docs/assets/swagger-ui.css",
            swagger_favicon_url="/docs/assets/favicon.png",
            swagger_ui_parameters={
                "persistAuthorization": True,
                "tryItOutEnabled": True,
                "validatorUrl": None,  # it would send the document to somebody else's server
            },
        )

    async def to_docs(_: Request) -> Response:
        return RedirectResponse("/docs", status_code=302)

    return [
        Route("/", to_docs),
        Route("/docs", page),
        Mount("/docs/assets", StaticFiles(directory=_ASSETS)),
    ]
