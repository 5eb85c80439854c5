"""Run docker-compose.yml's services with podman, as Compose would, and use them.

Owns the translation of what our compose file uses into podman's options, and the questions that
show the three services work together. Everything a service runs is read from the compose file.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "viz-check-"
NODE = "http://127.0.0.1:8402"
SCALE = {"s": 1, "m": 60}
PASSWORD = "play money only"
# What of a service is translated below; the order of the file serves for depends_on.
TRANSLATED = {"image", "init", "cap_drop", "security_opt", "environment", "volumes", "network_mode",
              "ports", "entrypoint", "command", "healthcheck"}  # fmt: skip
LEFT_OUT = {"build", "restart", "depends_on"}


def podman(*arguments: str, check: bool = True, shown: bool = False) -> str:
    """Run podman; return what it printed on standard output."""
    pipe = None if shown else subprocess.PIPE
    done = subprocess.run(["podman", *arguments], stdout=pipe, stderr=pipe, text=True, check=False)
    if done.returncode and check:
        command = f"podman {shlex.join(arguments)}"
        raise SystemExit(f"{command}\nended with {done.returncode}: {done.stderr}")
    return (done.stdout or "").strip()


def last_words(name: str) -> str:
    """Return the end of a container's output, of both kinds."""
    command = ["podman", "logs", "--tail", "40", PREFIX + name]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return f"{name} said last:\n{done.stdout}"


def options(name: str) -> list[str]:
    """Return a machine's own options for podman, from the environment."""
    return shlex.split(os.environ.get(name, ""))


def run_arguments(name: str, service: dict[str, Any]) -> list[str]:
    """Return `podman run` for one service of the compose file."""
    if unknown := service.keys() - TRANSLATED - LEFT_OUT:
        raise SystemExit(f"{name}: nobody here translates {', '.join(sorted(unknown))}")
    own = options("VIZ_RUN_OPTIONS")
    given = ["--detach", "--name", PREFIX + name, *own]
    if service.get("init"):
        given.append("--init")
    given += [f"--cap-drop={each}" for each in service.get("cap_drop", [])]
    given += [f"--security-opt={each}" for each in service.get("security_opt", [])]
    given += [f"--env={key}={value}" for key, value in service.get("environment", {}).items()]
    given += [f"--volume={PREFIX}{each}" for each in service.get("volumes", [])]
    if not any(each.startswith("--network") for each in own):
        shared = service.get("network_mode", "").removeprefix("service:")
        given += [f"--network=container:{PREFIX}{shared}"] if shared else []
        given += [f"--publish={each}" for each in service.get("ports", [])]
    if entrypoint := service.get("entrypoint"):
        given.append(f"--entrypoint={json.dumps(entrypoint)}")
    return ["run", *given, service["image"], *service.get("command", [])]


def seconds(text: str) -> int:
    """Return a duration of the compose file."""
    return int(text[:-1]) * SCALE[text[-1]]


def wait_healthy(name: str, service: dict[str, Any]) -> None:
    """Repeat a service's own health check until it passes, for as long as Compose would."""
    health = service["healthcheck"]
    pause_s = seconds(health["interval"])
    limit_s = seconds(health.get("start_period", "0s")) + pause_s * health["retries"]
    started = time.monotonic()
    while time.monotonic() - started < limit_s:
        if podman("inspect", PREFIX + name, "--format", "{{.State.Running}}") != "true":
            break
        check = subprocess.run(
            ["podman", "exec", PREFIX + name, *health["test"][1:]], capture_output=True, check=False
        )
        if check.returncode == 0:
            print(f"{name:<8} healthy after {time.monotonic() - started:.0f} s", flush=True)
            return
        time.sleep(1)
    raise SystemExit(f"{name} is not healthy; " + last_words(name))


def in_node(*arguments: str) -> Any:
    """Run a `viz` command inside the node's container; return its JSON."""
    given = (f"--env=VIZ_KEY_PASSWORD={PASSWORD}", PREFIX + "node", "viz", *arguments, "--json")
    return json.loads(podman("exec", *given))


def use(*, first: bool) -> None:
    """Look at the node from outside, and pay for one answer from inside."""
    with urllib.request.urlopen(f"{NODE}/viz/v1/node", timeout=30) as answer:
        info = json.load(answer)
    print(f"GET {NODE}/viz/v1/node: node {info['node']}, chain {info['chainId']}")
    if first:
        wallet = in_node("key", "new", "/data/wallet.key.json")["address"]
        in_node("testnet", "fund", wallet, "--tokens", "5")
        opened = in_node("channel", "open", "2.50", "--key", "/data/wallet.key.json")
        print(f"channel open: {opened['deposit']} units, by signature, relayed by the node")
    said = in_node("buyer", "ask", "What is the capital of France?", "--max-tokens", "12")
    print(f"answer: {said['text']!r}, paid {said['cost']} to {said['model']}")
    status = in_node("status")
    print(f"viz status: {status['channels']} channel, {status['receipts']} receipts, "
          f"{status['billed']} units billed")  # fmt: skip
    if status["receipts"] != (1 if first else 2):
        raise SystemExit("the node's ledger is not what it was before the restart")


def stop(services: dict[str, Any]) -> None:
    """Stop the services, the last started first; each must end in good order."""
    for name in reversed(services):
        podman("stop", "--time", "40", PREFIX + name)
        code = podman("inspect", PREFIX + name, "--format", "{{.State.ExitCode}}")
        print(f"{name:<8} stopped, exit {code}")
        if code != "0":
            raise SystemExit(last_words(name))


def clean(compose: dict[str, Any]) -> None:
    """Remove what a run leaves."""
    for name in reversed(compose["services"]):
        podman("rm", "--force", "--volumes", PREFIX + name, check=False)
    for name in compose["volumes"]:
        podman("volume", "rm", "--force", PREFIX + name, check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-build", action="store_true", help="use the image that is there")
    wanted = parser.parse_args()
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    services: dict[str, Any] = compose["services"]
    image = next(iter(services.values()))["image"]
    if not wanted.no_build:
        podman("build", "--tag", image, *options("VIZ_BUILD_OPTIONS"), str(ROOT), shown=True)
    clean(compose)
    try:
        for name, service in services.items():
            podman(*run_arguments(name, service))
            wait_healthy(name, service)
        use(first=True)
        stop(services)
        for name, service in services.items():
            podman("start", PREFIX + name)
            wait_healthy(name, service)
        use(first=False)
        stop(services)
    finally:
        clean(compose)
    print("the services of docker-compose.yml ran, were used, restarted and used again")


if __name__ == "__main__":
    main()
