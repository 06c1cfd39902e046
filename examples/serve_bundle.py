"""An exported bundle over HTTP: `python serve_bundle.py FILE.onnx`, then `curl --data-binary @x.jpg 127.0.0.1:8000`."""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import fewvit
from fewvit.images import BadImage

MAX_BYTES, MAX_PIXELS = 10 << 20, 25_000_000  # of a file, and of the picture in it, which may be huge


def app_for(bundle: fewvit.OnnxBundle) -> Starlette:
    """POST an image file: its label, confidence and strangeness. GET: what can be answered."""

    async def predict(request: Request) -> JSONResponse:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BYTES:
                return JSONResponse({"error": f"a file of more than {MAX_BYTES} bytes"}, 413)
        try:
            [row] = await run_in_threadpool(bundle.predict, [bytes(body)], MAX_PIXELS)
        except BadImage as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(row)

    async def about(request: Request) -> JSONResponse:
        return JSONResponse({"classes": list(bundle.classes), "threshold": bundle.threshold})

    return Starlette(routes=[Route("/", predict, methods=["POST"]), Route("/", about)])


if __name__ == "__main__":
    uvicorn.run(app_for(fewvit.load_onnx(sys.argv[1])), host="127.0.0.1", port=8000)
