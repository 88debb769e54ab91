"""A small HTTP server for the page, the tiles and the numbers.

It knows a fixed set of routes: files of the page, held in memory, and
numbers that are checked. No part of a request ever becomes a path.
"""
import ipaddress
import json
import re
import secrets
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

import rasterio
from mmengine.logging import MMLogger
from rasterio.windows import Window as RasterWindow

from relay_seg.class_ids import IGNORE

from .areas import Areas
from .classes import as_shown
from .grids import square_metres
from .layers import Layers
from .tiles import ERROR_COLOUR, SIZE, Tiles
from .windows import outlines

PAGE = Path(__file__).parent / 'page'
FILES = {
    '/': ('index.html', 'text/html'),
    '/viewer.css': ('viewer.css', 'text/css'),
    '/viewer.js': ('viewer.js', 'text/javascript'),
    '/legend.js': ('legend.js', 'text/javascript'),
    '/leaflet.css': ('leaflet/leaflet.css', 'text/css'),
    '/leaflet.js': ('leaflet/leaflet.js', 'text/javascript'),
}
HEADERS = {
    'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
}
TILE = re.compile(r'/tiles/([a-z]+)/([0-9]{1,2})/([0-9]{1,7})/([0-9]{1,7})'
                  r'\.png')
PLACE = re.compile(r'x=([0-9]{1,9})&y=([0-9]{1,9})')


class ViewerServer(ThreadingMixIn, TCPServer):
    """Serves rasters on show until it is shut down.

    Args:
        layers: What is on show; closed with the server.
        host: Address to listen at.
        port: Port to listen at; 0 for any free one.
    """
    daemon_threads = True
    allow_reuse_address = True
    #: Connections that wait to be taken; by default 5, and what comes while
    #: five wait is dropped: pages of many people load together.
    request_queue_size = socket.SOMAXCONN

    def __init__(self, layers: Layers, host: str = '127.0.0.1',
                 port: int = 0):
        self.layers = layers
        self.tiles = Tiles(layers)
        self.areas = Areas(layers)
        self.host = host
        # Browsers keep tiles; those of another run must not be shown.
        self.session = secrets.token_hex(8)
        self.files = {
            route: ((PAGE / name).read_bytes(), f'{kind}; charset=utf-8')
            for route, (name, kind) in FILES.items()}
        if ':' in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise ValueError(
                f'{host}:{port} cannot be listened at ({error}); choose '
                'another --port, or none for a free one.') from error
        self.areas.start()

    @property
    def url(self) -> str:
        """Address of the page."""
        host = {'0.0.0.0': '127.0.0.1', '::': '::1'}.get(self.host, self.host)
        host = f'[{host}]' if ':' in host else host
        return f'http://{host}:{self.server_address[1]}/'

    def server_close(self) -> None:
        super().server_close()
        self.areas.stop()
        self.layers.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Browsers drop connections as they like: nothing to report."""
        MMLogger.get_current_instance().debug(
            'a connection broke', exc_info=True)

    def allows(self, host: str | None) -> bool:
        """Whether a request may name this host.

        Pages of other sites could otherwise point a name of theirs at this
        server and read from it (DNS rebinding).
        """
        name = re.sub(r':[0-9]+$', '', host or '').strip('[]').lower()
        if name in ('localhost', self.host.lower(),
                    socket.gethostname().lower()):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def without_folders(self, message: str) -> str:
        """A message that names files, but not where they are."""
        for layer in (self.layers.scene, *self.layers.ids.values()):
            message = message.replace(str(layer.path), layer.name)
        return message

    def describe(self) -> dict:
        """What the page must know at the start."""
        layers, grid = self.layers, self.layers.scene.grid
        windows, classes = layers.windows, layers.classes
        slow = [layer.name for layer in (layers.scene, *layers.ids.values())
                if not layer.quick]
        area = square_metres(grid)
        metres = area**0.5 if area and grid.transform.is_conformal else None
        return dict(
            session=self.session,
            width=grid.width,
            height=grid.height,
            levels=self.tiles.levels,
            tile_size=SIZE,
            layers=layers.names,
            files={'scene': layers.scene.name,
                   **{name: layer.name for name, layer in layers.ids.items()}},
            crs=_crs_name(grid.crs),
            metres=metres,
            colours=classes.colours,
            error_colour=ERROR_COLOUR,
            names=[classes.name(i) for i in range(IGNORE)],
            known_names=len(classes.names),
            window=windows.size,
            context_factors=windows.context_factors,
            windows_assumed=windows.assumed,
            slow=slow)

    def look(self, x: int, y: int) -> dict:
        """What lies at a pixel of the scene.

        Args:
            x: Column.
            y: Row.

        Raises:
            LookupError: It is outside.
        """
        layers, grid = self.layers, self.layers.scene.grid
        if not (x < grid.width and y < grid.height):
            raise LookupError('outside the scene')
        ids = {}
        for name, layer in layers.ids.items():
            with layer.handles.lend() as raster:
                pixel = raster.read(
                    1, window=RasterWindow(x, y, 1, 1), masked=True)
            class_id = int(as_shown(pixel)[0, 0])
            ids[name] = None if class_id == IGNORE else class_id
        return dict(
            place=grid.transform @ (x + 0.5, y + 0.5)
            if not grid.transform.is_identity else None,
            ids=ids,
            windows=outlines(x + 0.5, y + 0.5, grid, layers.prediction.grid,
                             layers.windows))


def _crs_name(crs: rasterio.crs.CRS | None) -> str | None:
    if crs is None:
        return None
    authority = crs.to_authority()
    return ':'.join(authority) if authority else 'its own CRS'


class Handler(BaseHTTPRequestHandler):
    """One connection."""
    server: ViewerServer
    protocol_version = 'HTTP/1.1'
    server_version, sys_version = 'relay_seg', ''
    timeout = 60  # seconds that an idle connection is kept

    def do_GET(self) -> None:
        if not self.server.allows(self.headers.get('Host')):
            self._send_text(HTTPStatus.FORBIDDEN,
                            'Open the page at the address that was printed.')
            return
        try:
            self._answer()
        except LookupError as error:
            self._send_text(HTTPStatus.NOT_FOUND, str(error))
        except ConnectionError:
            raise
        except Exception as error:  # a damaged block, a file taken away
            MMLogger.get_current_instance().error(f'{self.path}: {error}')
            self._send_text(HTTPStatus.INTERNAL_SERVER_ERROR,
                            self.server.without_folders(str(error)))

    def _answer(self) -> None:
        path, _, query = self.path.partition('?')
        if path in self.server.files:
            content, kind = self.server.files[path]
            self._send(HTTPStatus.OK, content, kind)
        elif path == '/scene.json':
            self._send_json(self.server.describe())
        elif path == '/areas.json':
            report = self.server.areas.report()
            if report['problem']:
                report['problem'] = self.server.without_folders(
                    report['problem'])
            self._send_json(report)
        elif path == '/at.json' and (place := PLACE.fullmatch(query)):
            self._send_json(self.server.look(*map(int, place.groups())))
        elif tile := TILE.fullmatch(path):
            layer, *numbers = tile.groups()
            image = self.server.tiles.draw(layer, *map(int, numbers))
            self._send(HTTPStatus.OK, image, 'image/png',
                       'private, max-age=86400')
        else:
            raise LookupError('no such page')

    def _refuse(self) -> None:
        self.close_connection = True  # a body may follow
        self._send_text(HTTPStatus.METHOD_NOT_ALLOWED, 'GET only')

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse

    def _send_json(self, value: dict) -> None:
        # NaN and infinity, of a strange transform, are no JSON.
        self._send(HTTPStatus.OK, json.dumps(value, allow_nan=False).encode(),
                   'application/json')

    def _send_text(self, status: HTTPStatus, text: str) -> None:
        self._send(status, text.encode(), 'text/plain; charset=utf-8')

    def _send(self, status: HTTPStatus, content: bytes, kind: str,
              cache: str = 'no-store') -> None:
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(content)))
        self.send_header('Cache-Control', cache)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header('Allow', 'GET')
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """No line for each tile."""
