"""A local HTTP server that speaks both judges' protocols and misbehaves on schedule."""

import http.server
import json
import threading
import time


class JudgeServer:
    """Answers with `script(request number, body)`: a status and a body, or an action.

    A script returns (status, headers, text): text is what the judge says for status 200, or the
    raw body where it begins with "RAW:"; or "reset", "hang".
    """

    def __init__(self, script):
        self.script, self.bodies, self.headers, self.times = script, [], [], []
        self.busy, self.most = 0, 0
        self._lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_POST(self):
                outer.answer(self)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            self.times.append(time.monotonic())
            self.busy += 1
            self.most = max(self.most, self.busy)
        try:
            found = self.script(number, body)
            if found == "reset":
                handler.close_connection = True
                handler.connection.close()
                return
            if found == "hang":
                time.sleep(1.5)
                return
            status, headers, text = found
            content = self._content(handler.path, status, text).encode()
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("content-type", "application/json")
            handler.send_header("content-length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)
        finally:
            with self._lock:
                self.busy -= 1

    def _content(self, path, status, text):
        if text.startswith("RAW:"):
            return text[4:]
        if status != 200:
            return json.dumps({"type": "error", "error": {"type": "x", "message": text}})
        finish = "stop"
        for mark in ("REFUSAL:", "LENGTH:"):
            if text.startswith(mark):
                finish, text = mark[:-1].lower(), text[len(mark) :]
        if path.endswith("/messages"):
            reason = {"stop": "end_turn", "length": "max_tokens", "refusal": "refusal"}[finish]
            return json.dumps(
                {"id": "m", "type": "message", "role": "assistant", "model": "judge-1",
                 "content": [{"type": "text", "text": text}], "stop_reason": reason,
                 "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
            )  # fmt: skip
        reason = "content_filter" if finish == "refusal" else finish
        return json.dumps(
            {"id": "c", "object": "chat.completion", "created": 1, "model": "judge-1",
             "choices": [{"index": 0, "finish_reason": reason,
                          "message": {"role": "assistant", "content": text}}]}
        )  # fmt: skip


def said(body):
    """The user's text of a request."""
    return next(m["content"] for m in body["messages"] if m["role"] == "user")
