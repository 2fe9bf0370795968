"""A local server that speaks Anthropic's and OpenAI's wire formats, and misbehaves on schedule."""

import datetime
import hashlib
import http.server
import importlib.resources
import json
import random
import re
import threading
import time

from msm_jax.corpus.writers import Request
from msm_jax.corpus.writers.stub import StubWriter
from msm_jax.spec import load_spec, spec_points

HANG = 5.0  # seconds, longer than the clients' timeouts in the tests
EXAMPLES = importlib.resources.files("msm_jax.spec") / "examples"


def written(system, prompt, schema):
    """What a model that reads only the prompt might say; a function of the prompt."""
    draw = random.Random(hashlib.sha256(f"{system}{prompt}{schema}".encode()).digest())
    spec = load_spec(str(EXAMPLES / "values.md"), "Qwen", "Our Laboratory")
    points = spec_points(spec)
    if schema:
        fields = schema["properties"]["items"]["items"]["properties"]
        count = re.search(r"exactly (\d+)", prompt)
        rows = [
            {name: _value(name, facts, draw, points) for name, facts in fields.items()}
            for _ in range(int(count[1]) if count else 4)
        ]
        return json.dumps({"items": rows})
    inputs = {"points": [draw.choice(points)], "model_name": "Qwen", "words": (150, 600)}
    text = StubWriter().write(Request("document", system, prompt, inputs))
    return f"<scratchpad>I plan.</scratchpad>\n{text}"


def _value(name, facts, draw, points):
    if "enum" in facts:
        return facts["enum"][0]
    if name == "section":
        return draw.choice(points).text
    return f"{name} {draw.randrange(10**9)} about candor"


class Server:
    """`with Server(misbehaviour) as server: ... server.url`.

    Args:
      schedule: what happens to the 1st, 2nd, ... request; "ok" after its end.
      refuse_key: who has it in a key is turned away.
      script: instead of a schedule: (number of the request, its body) to what happens, which may
        also be (status, headers, text). The text is the model's with status 200, after
        "REFUSAL:" or "LENGTH:" one that ended so; after "RAW:", or as bytes, it is the whole body.

    Attributes:
      active, most_active: requests under way.
      number: of requests so far.
      delivered: hash of a request -> how often a whole and good reply to it was sent.
      replies: all whole replies.
      seen: everything that was sent here, headers included; times: when, in seconds.
      batches: id -> batch.
    """

    def __init__(self, schedule=(), refuse_key="", script=None):
        self.schedule, self.refuse_key, self.script = list(schedule), refuse_key, script
        self.delivered, self.seen, self.batches, self.replies = {}, [], {}, 0
        self.times = []
        self.polls_until_ended, self.expire_half_of_batch = 2, 0
        self.lock, self.number, self.active, self.most_active = threading.Lock(), 0, 0, 0

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"owner": self})
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        # How soon the end of the block is noticed, which takes half a second by default.
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def behaviour(self, request):
        with self.lock:
            number, self.number = self.number, self.number + 1
            if not self.script:
                return self.schedule.pop(0) if self.schedule else "ok"
        return self.script(number, request)


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.owner.lock:
            self.owner.seen.append((self.path, dict(self.headers), body))
            self.owner.times.append(time.monotonic())
            self.owner.active += 1
            self.owner.most_active = max(self.owner.most_active, self.owner.active)
        try:
            if self.path.endswith("/batches"):
                self.create_batch(json.loads(body))
            else:
                self.message(body)
        finally:
            with self.owner.lock:
                self.owner.active -= 1

    def do_GET(self):
        found = re.search(r"/batches/(\w+)(/results)?$", self.path.split("?")[0])
        if not found:
            rows = [_public(batch, self.owner) for batch in self.owner.batches.values()]
            self.send(200, {"data": rows, "has_more": False, "first_id": None, "last_id": None})
        elif found[2]:
            rows = self.results(self.owner.batches[found[1]])
            data = "".join(json.dumps(row) + "\n" for row in rows).encode()
            self.send_bytes(200, data, "application/x-jsonl")
        else:
            batch = self.owner.batches[found[1]]
            batch["polls"] += 1
            self.send(200, _public(batch, self.owner))

    # ------------------------------------------------------------ messages

    def message(self, body):
        request = json.loads(body)
        what = self.owner.behaviour(request)
        openai = "chat/completions" in self.path
        key = self.headers.get("x-api-key") or self.headers.get("authorization", "")
        if self.owner.refuse_key and self.owner.refuse_key in key:
            return self.error(401, f"invalid x-api-key: {key}", openai)
        if isinstance(what, tuple):
            return self.scripted(*what, openai)
        if what == "429":
            return self.error(429, "slow down", openai, {"retry-after": "0.3"})
        if what in ("500", "529", "503", "400"):
            return self.error(int(what), "trouble", openai)
        if what == "credit":
            if openai:
                return self.error(429, "You exceeded your quota", openai, code="insufficient_quota")
            return self.error(400, "Your credit balance is too low", openai)
        if what == "reset":
            self.close_connection = True
            return self.connection.close()
        if what == "hang":
            time.sleep(HANG)
            self.close_connection = True
            return None
        if what == "trickle":
            return self.trickle()
        reply = self.reply(request, openai, what)
        data = json.dumps(reply).encode()
        if what == "broken":
            return self.send_bytes(200, data[: len(data) // 2], "application/json")
        with self.owner.lock:
            self.owner.replies += 1
            if what == "ok":  # after a refusal the same words are asked again, on purpose
                name = hashlib.sha256(body).hexdigest()
                self.owner.delivered[name] = self.owner.delivered.get(name, 0) + 1
        return self.send_bytes(200, data, "application/json")

    def reply(self, request, openai, what="ok"):
        if openai:
            system, prompt = (m["content"] for m in request["messages"])
            schema = request.get("response_format", {}).get("json_schema", {}).get("schema")
        else:
            system = request["system"][0]["text"]
            prompt = request["messages"][0]["content"]
            schema = request.get("output_config", {}).get("format", {}).get("schema")
        text, stop = written(system, prompt, schema), "end"
        if what == "refusal":
            text, stop = "I won't.", "refusal"
        elif what == "wrong" and schema:
            text = '{"items": [{"colour": "blue"}]}'
        elif what == "cut":
            text, stop = text[: len(text) // 2], "length"
        used = (len(system + prompt) // 4, len(text) // 4)
        return openai_reply(text, stop, used) if openai else anthropic_reply(text, stop, used)

    def scripted(self, status, headers, text, openai):
        if isinstance(text, bytes):
            return self.send_bytes(status, text, "application/json", headers)
        if text.startswith("RAW:"):
            return self.send_bytes(status, text[4:].encode(), "application/json", headers)
        if status != 200:
            return self.error(status, text, openai, headers)
        mark, colon, rest = text.partition(":")
        stop = {"REFUSAL": "refusal", "LENGTH": "length"}.get(mark) if colon else None
        reply = openai_reply if openai else anthropic_reply
        return self.send(200, reply(rest if stop else text, stop or "end", (1, 1)), headers)

    def trickle(self):
        """A byte now and then: no single read ever times out."""
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "100000")
        self.end_headers()
        try:
            for _ in range(int(HANG / 0.1)):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)
        except OSError:
            pass
        self.close_connection = True

    # ------------------------------------------------------------ batches

    def create_batch(self, request):
        if self.owner.behaviour(request) == "500":
            return self.error(500, "trouble", False)
        name = f"msgbatch_{len(self.owner.batches)}"
        now = datetime.datetime.now(datetime.UTC)
        rows, number = request["requests"], len(self.owner.batches) + 1
        self.owner.batches[name] = {
            "id": name, "created_at": now, "requests": rows, "polls": 0, "number": number,
        }  # fmt: skip
        return self.send(200, _public(self.owner.batches[name], self.owner))

    def results(self, batch):
        rows = []
        for at, row in enumerate(batch["requests"]):
            if batch["number"] == self.owner.expire_half_of_batch and at % 2:
                result = {"type": "expired"}
            else:
                message = self.reply(row["params"], False)
                result = {"type": "succeeded", "message": message}
                with self.owner.lock:
                    paid = self.owner.delivered
                    paid[row["custom_id"]] = paid.get(row["custom_id"], 0) + 1
            rows.append({"custom_id": row["custom_id"], "result": result})
        random.Random(0).shuffle(rows)
        return rows

    # ------------------------------------------------------------ sending

    def error(self, status, message, openai, headers=None, code=None):
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status, "api_error")
        error = {"type": kind, "message": message}
        body = {"error": {**error, "code": code}} if openai else {"type": "error", "error": error}
        self.send(status, body, headers)

    def send(self, status, body, headers=None):
        self.send_bytes(status, json.dumps(body).encode(), "application/json", headers)

    def send_bytes(self, status, data, kind, headers=None):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _public(batch, owner):
    ended = batch["polls"] >= owner.polls_until_ended
    total = len(batch["requests"])
    counts = {"processing": 0 if ended else total, "succeeded": total if ended else 0,
              "errored": 0, "canceled": 0, "expired": 0}  # fmt: skip
    created = batch["created_at"]
    return {
        "id": batch["id"],
        "type": "message_batch",
        "processing_status": "ended" if ended else "in_progress",
        "request_counts": counts,
        "created_at": created.isoformat(),
        "expires_at": (created + datetime.timedelta(days=1)).isoformat(),
        "ended_at": created.isoformat() if ended else None,
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": f"{owner.url}/v1/messages/batches/{batch['id']}/results" if ended else None,
    }


def anthropic_reply(text, stop, used):
    reasons = {"end": "end_turn", "length": "max_tokens", "refusal": "refusal"}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": [{"type": "text", "text": text}],
        "stop_reason": reasons[stop],
        "stop_sequence": None,
        "usage": {"input_tokens": used[0], "output_tokens": used[1],
                  "cache_read_input_tokens": 10, "cache_creation_input_tokens": 0},
    }  # fmt: skip


def openai_reply(text, stop, used):
    reasons = {"end": "stop", "length": "length", "refusal": "content_filter"}
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "test",
        "choices": [{"index": 0, "message": message, "finish_reason": reasons[stop]}],
        "usage": {"prompt_tokens": used[0], "completion_tokens": used[1],
                  "total_tokens": sum(used)},
    }  # fmt: skip
