"""A Ray cluster on this machine, one head and two more nodes in processes, with the service on it; for tests.

``python ray_nodes.py ARGUMENTS PROXIES HEAD_CPUS`` (JSON, as ``serve run`` takes them; ``HeadOnly`` or ``EveryNode``)
says ``{"url": …}`` on a line once it serves, then does what it is told, a JSON list a line, the verb first, and answers
each with a line. It ends with its stdin. A process of its own: Ray leaves threads and sockets behind that are nobody's
business in a test's.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

STORE_BYTES = 80 * 2**20  # of its object store, of which nothing here makes use
REPLICA = "SERVE_REPLICA::stmixer#stmixer#"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def say(answer: Any) -> None:
    sys.__stdout__.write(json.dumps(answer) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def alive() -> list[dict[str, Any]]:
    """Ray's actors that run."""
    from ray._private.state import actors

    return [actor for actor in actors().values() if actor["State"] == "ALIVE"]


class Rack:
    """The nodes. The head's address stays where it is."""

    def __init__(self, head_cpus: int) -> None:
        from ray.cluster_utils import Cluster

        session = f"session_of_a_test_{os.getpid()}"
        self._folder = Path(tempfile.gettempdir(), "ray", session)
        self._folder.mkdir(parents=True)
        self._head = {
            "include_dashboard": False, "gcs_server_port": free_port(), "session_name": session,
            "temp_dir": str(self._folder.parent), "num_cpus": head_cpus,
            "redis_address": os.environ.get("RAY_REDIS_ADDRESS"),  # a head whose session has a name does not look there
        }  # fmt: skip
        self.cluster = Cluster(initialize_head=True, head_node_args=self._node() | self._head)
        for _ in range(2):
            self.add()

    def _node(self) -> dict[str, Any]:
        """What a node is given. It waits 15 s for its agent to say its ports, which a busy machine may not have: it is
        told all of them, the last one as the agent would tell it."""
        from ray._raylet import DASHBOARD_AGENT_LISTEN_PORT_NAME, persist_port

        number = secrets.token_hex(28)
        names = "metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", DASHBOARD_AGENT_LISTEN_PORT_NAME
        ports = {name: free_port() for name in names}
        persist_port(str(self._folder), number, names[-1], ports[names[-1]])
        told = {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": number}
        return {"num_cpus": 1, "object_store_memory": STORE_BYTES, "env_vars": told, **ports}

    def add(self) -> None:
        """Another node."""
        self.cluster.add_node(**self._node())

    def connect(self) -> None:
        """To Ray."""
        import ray

        ray.init(address=self.cluster.address, log_to_driver=False, configure_logging=False)

    def kill(self, replica: str) -> None:
        """The process of a replica alone."""
        (pid,) = (actor["Pid"] for actor in alive() if actor["Name"] == REPLICA + replica)
        os.kill(pid, signal.SIGKILL)

    def coordinator(self) -> int:
        """The process of the coordinator, 0 while there is none."""
        return next((actor["Pid"] for actor in alive() if actor["Name"].startswith("coordinator ")), 0)

    def elsewhere(self) -> list[str]:
        """Replicas that are not on the head."""
        head = self.cluster.head_node.node_id
        return [
            actor["Name"].removeprefix(REPLICA)
            for actor in alive()
            if actor["Name"].startswith(REPLICA) and actor["Address"]["NodeID"] != head
        ]

    def lose(self, replica: str) -> None:
        """The node that a replica is on, and all that is on it."""
        (on,) = (actor["Address"]["NodeID"] for actor in alive() if actor["Name"] == REPLICA + replica)
        (lost,) = (one for one in self.cluster.worker_nodes if one.node_id == on)
        end_at_once(lost)
        self.cluster.worker_nodes.remove(lost)

    def lose_head(self) -> None:
        """The head, and all that is on it."""
        import ray

        ray.shutdown()
        end_at_once(self.cluster.head_node)
        self.cluster.head_node = None

    def new_head(self) -> None:
        """Another one at its address."""
        self.cluster.add_node(**self._node() | self._head)
        self.connect()


def end_at_once(lost: Any) -> None:
    """As where the power goes: nobody there says a word to anybody."""
    roots = [psutil.Process(info.process.pid) for infos in lost.all_processes.values() for info in infos]
    for process in [*roots, *(child for root in roots for child in root.children(recursive=True))]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    lost.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)


def main(arguments: dict[str, Any], proxies: str, head_cpus: int) -> None:
    import ray
    from ray import serve

    from stmixer.service.cluster.application import application  # sets what Ray reads when it starts

    rack = Rack(head_cpus)
    try:
        rack.connect()
        port, whole = free_port(), True
        serve.start(proxy_location=proxies, http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(arguments), name="stmixer")
        say({"url": f"http://127.0.0.1:{port}"})
        for line in sys.stdin:
            answer: Any = "done"
            match json.loads(line):
                case ["kill", replica]:
                    rack.kill(replica)
                case ["deploy", changed]:
                    serve.run(application(changed), name="stmixer")
                case ["coordinator"]:
                    answer = rack.coordinator()
                case ["kill coordinator"]:
                    os.kill(rack.coordinator(), signal.SIGKILL)
                case ["elsewhere"]:
                    answer = rack.elsewhere()
                case ["lose", replica]:
                    rack.lose(replica)
                case ["proxies"]:
                    answer = sum(status == "HEALTHY" for status in serve.status().proxies.values())
                case ["add"]:
                    rack.add()
                case ["lose head"]:
                    rack.lose_head()
                    whole = False
                case ["new head"]:
                    rack.new_head()
                case order:
                    raise ValueError(order)
            say(answer)
        if whole:  # else what was connected to Serve is no more
            serve.shutdown()
    finally:
        ray.shutdown()
        rack.cluster.shutdown()


if __name__ == "__main__":
    sys.stdout = sys.stderr  # what Ray prints is no answer
    main(json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
