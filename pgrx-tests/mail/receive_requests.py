"""An HTTP server that keeps the id of each request that it has answered as a file, and hangs where a file in its folder says so.

receive_requests.py PORT FOLDER: FOLDER/done has the ids. While FOLDER/hang is there, nobody is answered, which FOLDER/hangs tells.
"""

import itertools
import pathlib
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
done = folder / "done"
numbers = itertools.count()


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        while (folder / "hang").exists():
            (folder / "hangs").touch()
            time.sleep(0.02)
        written = folder / f"{next(numbers):06}.part"
        written.write_text(self.headers["webhook-id"])
        written.rename(done / f"{written.stem}.id")
        self.send_response(204)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


done.mkdir(parents=True, exist_ok=True)
ThreadingHTTPServer(("127.0.0.1", port), Receiver).serve_forever()
