"""Models named by a hub id: from the cache without a network, and what is wrong with one before anything runs."""

import ast
import json
import subprocess
import sys

import hub_cache
import pytest

from seaplib import hub

pytestmark = pytest.mark.unit

NAME = "someone/tiny"


def python(code: str, environment: dict) -> list[str]:
    """What a process of its own (the client reads its places when it is imported) prints behind SAID."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return [line.removeprefix("SAID ") for line in done.stdout.splitlines() if line.startswith("SAID ")]


LOAD = """
import os, socket
def refuse(*_):
    raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
import torch, seaplib
from safetensors.torch import save_file
from seaplib import hub, models
from seaplib.models import files
from seaplib.evaluation.accuracy import name_of
config = files.read_config("someone/tiny", offline=True)
assert files.read_config("someone/tiny") == config  # what is whole in the cache asks no hub
model, tokenizer = seaplib.load("someone/tiny", device="cpu")
logits = model(torch.tensor([tokenizer("the otter eats a fish")["input_ids"]])).logits
print("SAID", config["num_hidden_layers"], name_of(model), hub.snapshot("someone/tiny").name)
print("SAID", tokenizer("the otter")["input_ids"], models.fingerprint(model))
save_file({"logits": logits.detach().contiguous()}, os.environ["LOGITS"])
"""


@pytest.mark.slow
def test_a_hub_id_loads_model_and_tokenizer_from_the_cache_without_a_network(tiny_model, tiny_tokenizer, tmp_path):
    import torch
    from safetensors.torch import load_file

    from seaplib import models

    model = tiny_model("gqa")
    revision = hub_cache.put(tmp_path, NAME, model, tiny_tokenizer).name
    file = tmp_path / "logits.safetensors"
    source, same = python(LOAD, hub_cache.environment(tmp_path, LOGITS=str(file)))
    assert source == f"2 {NAME} {revision}"
    ids = torch.tensor([tiny_tokenizer("the otter eats a fish")["input_ids"]])
    assert same == f"{tiny_tokenizer('the otter')['input_ids']} {models.fingerprint(model)}"
    # Another process may have other threads, and so another order of additions: single precision's rounding of
    # sums of 48 terms of order 1, over two layers.
    torch.testing.assert_close(load_file(file)["logits"], model(ids).logits, rtol=1e-5, atol=1e-5)


DAMAGED = """
import os
from seaplib import models
from seaplib.models import files
for name in os.environ["NAMES"].split(","):
    for ask in (lambda: files.read_config(name, offline=True), lambda: models.load(name)):
        try:
            ask()
            print("SAID", name, "nothing")
        except models.ModelError as error:
            print("SAID", name, repr(str(error)))
"""


def cut(snapshot):
    file = (snapshot / "model.safetensors").resolve()
    file.write_bytes(file.read_bytes()[:-1000])


def corrupt(snapshot):
    (snapshot / "model.safetensors").resolve().write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def deeper(snapshot):
    file = (snapshot / "config.json").resolve()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 3}))


def other(snapshot):
    file = (snapshot / "config.json").resolve()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "gpt_neox"}))


def unsupported(snapshot):
    (snapshot / "config.json").resolve().write_text(json.dumps({"model_type": "bloom"}))


def without(*names):
    def damage(snapshot):
        for name in names:
            (snapshot / name).unlink()

    return damage


DAMAGE = {
    "cut short": (cut, "model.safetensors"),
    "a pointer": (corrupt, "model.safetensors"),
    "no weights": (without("model.safetensors"), "no weights"),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), "no tokenizer"),
    "another depth": (deeper, "layers.2.self_attn"),
    "another architecture": (other, "gpt_neox"),
    "unsupported": (unsupported, "'bloom'"),
    "nothing": (without("config.json"), "hub cache"),
}


@pytest.mark.slow
def test_a_damaged_cache_is_one_line_before_anything_runs(tiny_model, tiny_tokenizer, tmp_path):
    """All in a single process, which takes seconds to start: a repository for every damage."""
    model, names = tiny_model("gqa"), {}
    for what, (damage, named) in DAMAGE.items():
        name = f"someone/{what.replace(' ', '-')}"
        names[name] = named
        damage(hub_cache.put(tmp_path, name, model, tiny_tokenizer))
    said = [line.split(" ", 1) for line in python(DAMAGED, hub_cache.environment(tmp_path, NAMES=",".join(names)))]
    assert [name for name, _ in said] == [name for name in names for _ in range(2)]
    for name, error in said:
        assert names[name] in ast.literal_eval(error) and r"\n" not in error, (name, error)


ON_THE_HUB = """
import http.server, json, os, threading

class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.split("?")[0].removeprefix("/api/models/").removeprefix("/api/datasets/")
        about, status, code = b"{}", 200, None
        if name == "someone/closed/auth-check" or "gated" in name:
            status, code = 403, "GatedRepo"
        elif "absent" in name or "/resolve/" in name:
            status, code = 404, "RepoNotFound"
        elif not name.endswith("/auth-check"):
            files = {"someone/bare": ["config.json"], "someone/mute": ["config.json", "model.safetensors"]}
            files = files.get(name, ["config.json", "model.safetensors", "tokenizer.json"])
            about = json.dumps({"id": name, "siblings": [{"rfilename": file} for file in files]}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(about)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(about)
    do_HEAD = do_POST = do_GET
    def log_message(self, *args): pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_address[1]}"
from seaplib import models
from seaplib.models import files
from seaplib.runner import checks, plan
from seaplib.texts import rows, tasks
def ask(action):
    try:
        print("SAID", action() or "fine")
    except (models.ModelError, checks.PlanError, OSError) as error:
        print("SAID", error)
for name in ("closed", "absent", "bare", "mute"):
    ask(lambda: files.read_config(f"someone/{name}"))
ask(lambda: rows.check("piqa") or rows.check("wikitext2"))
source = tasks.Source("someone/absent", None, ("train",), ("lost",))
tasks.register(tasks.replace(tasks.get("piqa"), name="lost", train=source))
ask(lambda: rows.check("lost"))
for name in ("gated", "absent"):
    ask(lambda: models.load(f"someone/{name}"))
server.shutdown()
server.server_close()
ask(lambda: checks.check(plan.load("llama_2_7b")))
ask(lambda: rows.check("boolq"))
"""


def online(home, **more) -> dict:
    environment = hub_cache.environment(home, **more)
    return {name: value for name, value in environment.items() if not name.endswith("_OFFLINE")}


@pytest.mark.slow
def test_what_the_hub_says_of_a_model_or_a_data_set_is_one_line(tmp_path):
    """And that it cannot be reached, once it has gone."""
    closed, absent, bare, mute, data, lost, *loading, model, rows = python(ON_THE_HUB, online(tmp_path))
    for gated in (closed, loading[0]):
        assert "access to it has to be granted" in gated and "HF_TOKEN" in gated
    for nowhere in (absent, loading[1]):
        assert "'someone/absent': neither a directory nor on the hub" in nowhere
    assert "'someone/gated'" in loading[0]
    assert "has no weights" in bare and "has no tokenizer" in mute
    assert data == "fine"
    assert "lost" in lost and "'someone/absent'" in lost and "SEAP_DATA_DIR" in lost
    assert "'meta-llama/Llama-2-7b-hf': neither a directory nor in the local hub cache" in model
    assert "the hub cannot be reached" in model and "the hub cannot be reached" in rows and "boolq" in rows


def test_errors_of_the_clients_http_library_count_as_unreachable():
    class TransportError(Exception):
        pass

    class ConnectError(TransportError):
        pass

    assert "cannot be reached" in hub.problem(ConnectError("no route"))
    assert hub.problem(ValueError("something else")) is None
