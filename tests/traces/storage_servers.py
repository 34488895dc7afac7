"""Object storages on 127.0.0.1: as much of S3, Google Cloud Storage and the Hugging Face Hub as
fsspec needs for reading. Each notes what it was asked for, and fails where it is told to.
"""

from __future__ import annotations

import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import dumps
from threading import Thread
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

STAMP = "2026-01-02T03:04:05.000Z"


def mark(content):
    """Return what tells two versions apart: an ETag, a generation, a commit."""
    return f"{hash(content) % 2**63:040}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *arguments):
        """Pass over clients that go before they have their answer."""


class Storage:
    """A running server; ``objects`` are its files by path, below one bucket or repository.

    ``status`` is answered to everything, ``page`` is how many names a listing has at once, and
    ``failing_page`` is the listing's page that fails. Of an object, the connection ends at byte
    ``cut``, whatever length was announced. What is asked for in another version than there is now
    is refused.
    """

    def __init__(self, handler):
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.sent = 0
        self.status: int | None = None
        self.cut: int | None = None
        self.page = 1000
        self.failing_page = -1
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.storage = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def listing(self, prefix, delimiter, token):
        """Return the objects and folders below a prefix, one page of them, and the next page."""
        names = {}
        for path in sorted(self.objects):
            if path.startswith(prefix):
                folder = path[len(prefix) :].partition("/") if delimiter else (path, "", "")
                names[prefix + folder[0] + "/" if folder[1] else path] = bool(folder[1])
        first = int(token or 0)
        found = list(names.items())[first : first + self.page]
        after = str(first + self.page) if first + self.page < len(names) else ""
        files, folders = ([n for n, folder in found if folder is kind] for kind in (False, True))
        return files, folders, after

    def page_fails(self, token):
        return int(token or 0) // self.page == self.failing_page


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    kind = "application/json"
    error = '{"error": {"message": "failed", "code": %d}}'

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.storage = self.server.storage
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        self.storage.requests.append(f"{self.command} {self.path}")
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if self.storage.status is not None:
            self.fail(self.storage.status)
        else:
            self.answer(url.path, query)

    do_HEAD = do_POST = do_GET

    def fail(self, status):
        self.send(status, (self.error % status).encode())

    def send(self, status, body, headers=(), cut=None):
        self.send_response(status)
        for name, value in {"Content-Type": self.kind, **dict(headers)}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut is not None and len(body) > cut:
            body, self.close_connection = body[: max(cut, 0)], True
        self.wfile.write(body)
        self.storage.sent += len(body)

    def about_objects(self):
        return {}

    def send_object(self, path):
        data = self.storage.objects.get(path)
        if data is None:
            return self.fail(404)
        headers = {
            "ETag": f'"{mark(data)}"',
            **self.about_objects(),
            "Last-Modified": "Fri, 02 Jan 2026 03:04:05 GMT",
        }
        if self.headers.get("If-Match", headers["ETag"]) != headers["ETag"]:
            return self.fail(412)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return self.send(200, data, headers, self.storage.cut)
        start, stop = int(asked[1]), min(int(asked[2] or len(data) - 1) + 1, len(data))
        if start >= len(data):
            return self.fail(416)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        cut = None if self.storage.cut is None else self.storage.cut - start
        return self.send(206, data[start:stop], headers, cut)


class S3(_Handler):
    """``/bucket/key`` and ListObjectsV2."""

    kind = "application/xml"
    error = "<Error><Code>%d</Code><Message>failed</Message></Error>"

    def answer(self, path, query):
        key = unquote(path).removeprefix("/bucket").lstrip("/")
        if not unquote(path).startswith("/bucket"):
            return self.send(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        if key or "list-type" not in query:
            return self.send_object(key)
        token = query.get("continuation-token")
        if self.storage.page_fails(token):
            return self.fail(403)
        files, folders, after = self.storage.listing(
            query.get("prefix", ""), query.get("delimiter"), token
        )
        parts = [f"<IsTruncated>{str(bool(after)).lower()}</IsTruncated>"]
        parts += [f"<NextContinuationToken>{after}</NextContinuationToken>"] if after else []
        parts += [
            f"<Contents><Key>{escape(name)}</Key><LastModified>{STAMP}</LastModified>"
            f'<ETag>"{mark(self.storage.objects[name])}"</ETag>'
            f"<Size>{len(self.storage.objects[name])}</Size></Contents>"
            for name in files
        ]
        parts += [
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders
        ]
        return self.send(200, f"<ListBucketResult>{''.join(parts)}</ListBucketResult>".encode())


class Gcs(_Handler):
    """``/storage/v1/b/bucket/o`` and media downloads."""

    def answer(self, path, query):
        found = re.fullmatch(r"(?:/download)?/storage/v1/b/bucket/o(?:/(.+))?", path)
        if found is None:
            return self.fail(404)
        if found[1]:
            key = unquote(found[1])
            if query.get("alt") == "media":
                now = str(int(mark(self.storage.objects.get(key))))
                return (
                    self.send_object(key) if query.get("generation", now) == now else self.fail(404)
                )
            return self.describe(key)
        if self.storage.page_fails(query.get("pageToken")):
            return self.fail(403)
        files, folders, after = self.storage.listing(
            query.get("prefix", ""), query.get("delimiter"), query.get("pageToken")
        )
        items = [self.item(name) for name in files]
        answer = {"kind": "storage#objects", "items": items, "prefixes": folders}
        answer |= {"nextPageToken": after} if after else {}
        return self.send(200, dumps(answer).encode())

    def describe(self, key):
        if key not in self.storage.objects:
            return self.fail(404)
        return self.send(200, dumps(self.item(key)).encode())

    def item(self, name):
        data = self.storage.objects[name]
        about = {"size": str(len(data)), "generation": str(int(mark(data)))}
        return {"name": name, "bucket": "bucket", "updated": STAMP, **about}


class Hub(_Handler):
    """The data set ``team/runs``: its description, its tree, and its files."""

    def about_objects(self):
        return {"X-Repo-Commit": mark(frozenset(self.storage.objects.items()))}

    def answer(self, path, query):
        path = unquote(path)
        commit = self.about_objects()["X-Repo-Commit"]
        file = re.fullmatch(rf"/datasets/team/runs/resolve/(?:main|{commit})/(.+)", path)
        if file is not None:
            return self.send_object(file[1])
        if not path.startswith("/api/datasets/team/runs"):
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        inside = path.removeprefix("/api/datasets/team/runs")
        tree = re.fullmatch(rf"/tree/(main|{commit})(?:/(.*))?", inside)
        if tree is None:
            about = {"id": "team/runs", "sha": commit, "private": False, "tags": [], "siblings": []}
            return self.send(200, dumps(about).encode())
        folder = (tree[2] or "").strip("/")
        prefix = folder + "/" if folder else ""
        if not any(name.startswith(prefix) for name in self.storage.objects):
            return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        if self.storage.page_fails(query.get("cursor")):
            return self.fail(403)
        flat = query.get("recursive", "").lower() != "true"
        files, folders, after = self.storage.listing(prefix, flat, query.get("cursor"))
        entries = [
            {"type": "file", "path": name, "size": len(self.storage.objects[name]), "oid": "0"}
            for name in files
        ] + [{"type": "directory", "path": name.rstrip("/"), "oid": "0"} for name in folders]
        link = {}
        if after:
            recursive = "" if flat else "&recursive=True"
            url = f"{self.storage.url}/api/datasets/team/runs/tree/{tree[1]}/{quote(folder)}"
            link["Link"] = f'<{url}?cursor={after}{recursive}>; rel="next"'
        return self.send(200, dumps(entries).encode(), link)
