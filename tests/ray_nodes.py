"""A Ray cluster on this machine, one head and two more nodes in processes, with the service on it; for tests.

``python ray_nodes.py ARGUMENTS`` (JSON, as ``serve run`` takes them) says ``{"url": …}`` on a line once it serves, then
does what it is told, a JSON list a line: ``["kill", REPLICA]``, ``["deploy", ARGUMENTS]``, ``["lose"]`` (a node that is
not the head). It answers each with a line, and ends with its stdin. A process of its own: Ray leaves threads and
sockets behind that are nobody's business in a test's.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

STORE_BYTES = 80 * 2**20  # of its object store, of which nothing here makes use


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def node() -> dict[str, int]:
    """What a node is given. Ports that it had to choose it would wait for 20 s, which a busy machine may not have."""
    ports = {
        name: free_port() for name in ("metrics_agent_port", "runtime_env_agent_port", "dashboard_agent_listen_port")
    }
    return {"num_cpus": 1, "object_store_memory": STORE_BYTES, **ports}


def say(answer: Any) -> None:
    sys.__stdout__.write(json.dumps(answer) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def pid_of(replica: str) -> int:
    """Of a replica that has this name."""
    import ray
    from ray._private.state import actors

    handle = ray.get_actor(f"SERVE_REPLICA::stmixer#stmixer#{replica}", namespace="serve")
    pid: int = actors(handle._actor_id.hex())["Pid"]
    return pid


def main(arguments: dict[str, Any]) -> None:
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    from stmixer.service.cluster.application import application  # sets what Ray reads when it starts

    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **node()})
    others = [cluster.add_node(**node()) for _ in range(2)]
    try:
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        port = free_port()
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(arguments), name="stmixer")
        say({"url": f"http://127.0.0.1:{port}"})
        for line in sys.stdin:
            match json.loads(line):
                case ["kill", replica]:
                    os.kill(pid_of(replica), signal.SIGKILL)
                case ["deploy", changed]:
                    serve.run(application(changed), name="stmixer")
                case ["lose"]:
                    cluster.remove_node(others.pop(), allow_graceful=False)
            say("done")
        serve.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    sys.stdout = sys.stderr  # what Ray prints is no answer
    main(json.loads(sys.argv[1]))
