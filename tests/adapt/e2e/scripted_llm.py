"""A server that speaks OpenAI's chat completions and answers as its models' names say: right, late, wrong, or never.

Run as a process of its own: ``python scripted_llm.py``. It prints its port. The name of the model that a request asks
for chooses the behaviour; "+" joins several. ``GET /log`` lists the requests, ``POST /reset`` forgets them.

Every right answer depends on the messages alone, so that all behaviours that end well give the same queries.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DOCUMENT = re.compile(r"<document-([0-9a-f]{12})>\n(.*?)\n</document-\1>", re.DOTALL)
PEOPLE = re.compile(r"The people:\n((?:- .*\n)+)")
KINDS = re.compile(r"The types of query:\n((?:- .*\n)+)")
LEVELS = re.compile(r"The levels of knowledge:\n((?:- .*\n)+)")
OBEYED = re.compile(r'["“]([^"”]+)["”]')

lock = threading.Lock()
log: list[dict[str, Any]] = []
seen: Counter[str] = Counter()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with lock:
            self.reply(200, list(log))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/reset":
            with lock:
                log.clear()
                seen.clear()
            self.reply(200, {})
            return
        if not body:
            return  # the client did not wait
        asked = json.loads(body)
        behaviours = asked["model"].split("+")
        key = json.dumps([asked["model"], asked["messages"]])
        with lock:
            seen[key] += 1
            times = seen[key]
            log.append({"path": self.path, "headers": dict(self.headers), "fields": asked})
            total = len(log)
        for behaviour in behaviours:
            if self.misbehaves(behaviour, asked, times, total):
                return
        self.reply(200, completion(asked, written(asked, behaviours), usage="no-usage" not in behaviours))

    def misbehaves(self, behaviour: str, asked: dict[str, Any], times: int, total: int) -> bool:
        """Answers otherwise than right, if the behaviour says so. ``times``: how often these messages have come."""
        soon = {"Retry-After-Ms": "20"}
        match behaviour:
            case "late" if times == 1:
                time.sleep(0.8)
                return False
            case "slow":
                time.sleep(0.02)
                return False
            case "jitter":
                time.sleep(number(asked, 20) / 1000)
                return False
            case "429" if times == 1:
                self.reply(429, {"error": {"message": "slow down"}}, soon)
            case "500" if times <= 2:
                self.reply(500, {"error": {"message": "out of order"}}, soon)
            case "broken" if times == 1:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            case "down":
                self.reply(503, {"error": {"message": "no model is loaded"}}, soon)
            case "down-after-9" if total > 9:
                self.reply(503, {"error": {"message": "no model is loaded"}}, soon)
            case "mute" if "beekeeper" in asked["messages"][1]["content"]:
                self.reply(503, {"error": {"message": "no model is loaded"}}, soon)
            case "strict" if "beekeeper" in asked["messages"][1]["content"]:
                self.reply(400, {"error": {"message": "the content filter refuses the prompt"}})
            case "wrong" if times == 1:
                self.reply(200, completion(asked, "Certainly! Here is what you asked for."))
            case "always-wrong":
                self.reply(200, completion(asked, "I would rather not say"))
            case "cut-off":
                self.reply(200, completion(asked, '{"character": "Bak', reason="length"))
            case "html":
                self.reply_bytes(200, b"<html>Welcome</html>", "text/html")
            case "torn":
                self.reply_bytes(200, b'{"choices": [{"mess', "application/json")
            case "empty":
                self.reply(200, {"choices": []})
            case "parts":
                self.reply(200, completion(asked, [{"type": "text", "text": "x"}]))
            case "bad-key":
                given = self.headers.get("Authorization", "")
                self.reply(401, {"error": {"message": f"wrong key: {given.removeprefix('Bearer ')}"}})
            case "no-model":
                self.reply(404, {"error": {"message": "the model does not exist"}})
            case "too-long":
                self.reply(400, {"error": {"message": "maximum context length is 512 tokens; reduce max_tokens"}})
            case "no-schema" if "response_format" in asked:
                self.reply(400, {"error": {"message": "response_format of type json_schema is unknown"}})
            case "no-seed" if "seed" in asked:
                self.reply(422, {"detail": "Unexpected fields in the request: {'seed'}"})
            case "new-names" if "max_tokens" in asked:
                message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
                self.reply(400, {"error": {"message": message, "param": "max_tokens"}})
            case "no-temperature" if "temperature" in asked:
                message = "Only the default value is supported."
                self.reply(400, {"error": {"message": message, "param": "temperature"}})
            case _:
                return False
        return True

    def reply(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self.reply_bytes(status, json.dumps(value).encode(), "application/json", headers)

    def reply_bytes(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        try:
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # the client did not wait

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def completion(asked: dict[str, Any], text: Any, *, reason: str = "stop", usage: bool = True) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": "scripted",
        "object": "chat.completion",
        "created": 0,
        "model": asked["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}],
    }
    if usage:
        prompt = sum(len(message["content"]) for message in asked["messages"]) // 4
        made["usage"] = {"prompt_tokens": prompt, "completion_tokens": 25, "total_tokens": prompt + 25}
    return made


def written(asked: dict[str, Any], behaviours: list[str]) -> str:
    """A right answer; "obedient" does what a document orders, "watchful" says that it gives orders."""
    message = asked["messages"][1]["content"]
    found = DOCUMENT.search(message)
    text = found[2] if found else ""
    if people := PEOPLE.search(message):
        return json.dumps(
            {
                "character": chosen(people[1], asked),
                "type": chosen(KINDS.findall(message)[0], asked),
                "difficulty": chosen(LEVELS.findall(message)[0], asked),
                "gives_orders": "watchful" in behaviours and "gnore" in text,
            }
        )
    quoted = OBEYED.findall(text)
    if "obedient" in behaviours and quoted:
        return json.dumps({"query": quoted[-1]})
    words = sorted({word.lower() for word in re.findall(r"[A-Za-z]{5,}", text)})
    picked = [words[number(asked, len(words), place)] for place in range(3)] if words else ["nothing"]
    query = f"how does {picked[0]} relate to {picked[1]} and {picked[2]}"
    answer = json.dumps({"query": query})
    return f"<think>{{not this}} hm</think>\n```json\n{answer}\n```" if "chatty" in behaviours else answer


def chosen(lines: str, asked: dict[str, Any]) -> str:
    names = [line[2:].partition(":")[0] for line in lines.splitlines()]
    return names[number(asked, len(names))]


def number(asked: dict[str, Any], below: int, place: int = 0) -> int:
    content = json.dumps([asked["messages"], place]).encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:4], "big") % below


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()
