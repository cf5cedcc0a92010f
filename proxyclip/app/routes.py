"""The HTTP interface beside Gradio's: images come in, and maps and files go out.

Uploads do not pass through Gradio, whose components decode an image before anything can check its size.
"""

from pathlib import Path

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from proxyclip.app import uploads
from proxyclip.app.desk import Desk
from proxyclip.app.downloads import download
from proxyclip.app.examples import EXAMPLES, file_of
from proxyclip.app.held import OpenImage
from proxyclip.app.messages import sentence
from proxyclip.app.segmenting import heat
from proxyclip.errors import InputError, NotFound

STATIC = Path(__file__).parent / "static"
DECODING, DRAWING = 2, 2  # at a time: each takes the memory of an image


def add_routes(app: FastAPI, desk: Desk) -> None:
    decoding, drawing = anyio.CapacityLimiter(DECODING), anyio.CapacityLimiter(DRAWING)
    app.mount("/parts", StaticFiles(directory=STATIC))

    async def in_thread(limiter, function, *arguments):
        return await anyio.to_thread.run_sync(function, *arguments, limiter=limiter)

    @app.exception_handler(InputError)
    @app.exception_handler(NotFound)
    async def refused(request: Request, error: Exception):
        return JSONResponse({"error": sentence(error)}, status_code=400)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception):
        return JSONResponse({"error": sentence(error)}, status_code=500)

    @app.post("/images")
    async def upload(request: Request, name: str = "", instead_of: str = ""):
        """The body is the file."""
        uploads.check_bytes(int(request.headers.get("content-length", "0")), desk.limits)
        async with uploads.received(request.stream(), desk.limits) as path:
            image = await in_thread(decoding, uploads.read_upload, path, name, desk.limits)
        return opened(desk, OpenImage(image, uploads.shown(name)), instead_of)

    @app.post("/examples/{name}")
    async def example(name: str, instead_of: str = ""):
        if name not in EXAMPLES:
            raise InputError("there is no such example")
        image = await in_thread(decoding, uploads.read_upload, file_of(name), name, desk.limits)
        return opened(desk, OpenImage(image, EXAMPLES[name].title), instead_of)

    @app.get("/images/{key}")
    async def shown(key: str):
        return Response(await in_thread(drawing, desk.image(key).shown), media_type="image/jpeg")

    @app.get("/results/{key}/labels")
    async def labels(key: str):
        return packed(await in_thread(drawing, desk.result(key).labels))

    @app.get("/results/{key}/confidence")
    async def confidence(key: str):
        return packed(await in_thread(drawing, desk.result(key).confidence))

    @app.get("/results/{key}/heat/{index}")
    async def heat_map(key: str, index: int):
        if not 0 <= index < len(desk.result(key).segmentation.classes):
            raise InputError("there is no such class")
        return packed(await in_thread(drawing, heat, desk, key, index))

    @app.get("/results/{key}/files/{kind}")
    async def file(key: str, kind: str, alpha: float = 0.55):
        content, media, name = await in_thread(drawing, download, desk.result(key), kind, alpha)
        return Response(content, media_type=media, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def opened(desk: Desk, image: OpenImage, instead_of: str) -> dict:
    height, width = image.image.shape[:2]
    return {"key": desk.open(image, instead_of), "name": image.name, "height": height, "width": width}


def packed(content: bytes) -> Response:
    """A map that the browser unpacks; nothing of it is stored on disk."""
    headers = {"Content-Encoding": "gzip", "Cache-Control": "no-store"}
    return Response(content, media_type="application/octet-stream", headers=headers)
