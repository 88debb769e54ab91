"""A small HTTP server with ranges, that fails when it is told to.

    python tests/range_server.py FOLDER

GDAL keeps Python from running while it reads: it needs a process of its own.
"""
import os
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    wbufsize = -1  # head and body in one piece: no waiting between them
    count = 0
    dies = None

    def do_GET(self):
        folder = Path(sys.argv[1])
        Handler.count += 1
        # die: number of a request, and bytes of its answer that are given.
        die = folder / '.die'
        if die.exists():
            number, size = map(int, die.read_text().split())
            Handler.dies = size if Handler.count == number else None
        # fail: every request of this number is answered with 503.
        fail = folder / '.fail'
        if fail.exists() and Handler.count % int(fail.read_text()) == 0:
            return self.answer(503)
        file = folder / self.path.partition('?')[0].lstrip('/')
        if not file.is_file():
            return self.answer(404)
        content, status = file.read_bytes(), file.stat()
        code, headers = 200, {
            'Accept-Ranges': 'bytes',
            'ETag': f'"{status.st_mtime_ns:x}-{len(content):x}"'}
        if found := re.match(r'bytes=(\d+)-(\d*)',
                             self.headers.get('Range', '')):
            first, last = int(found[1]), int(found[2] or len(content))
            last = min(last, len(content) - 1)
            headers['Content-Range'] = f'bytes {first}-{last}/{len(content)}'
            code, content = 206, content[first:last + 1]
        self.answer(code, content, headers)

    do_HEAD = do_GET

    def answer(self, code, content=b'', headers=()):
        self.send_response(code)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        if self.dies is not None:
            self.wfile.write(content[:self.dies])
            self.wfile.flush()
            os._exit(1)
        if self.command == 'GET':
            self.wfile.write(content)

    def log_message(self, *args):
        pass


if __name__ == '__main__':
    with ThreadingHTTPServer(('127.0.0.1', int(sys.argv[2])), Handler) as it:
        it.daemon_threads = True
        print(it.server_port, flush=True)
        it.serve_forever()
