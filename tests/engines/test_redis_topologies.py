"""The engine of Redis where there is more than a server: TLS, Sentinels, and clusters."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from uvicorn_worker.broadcast.redis import engine_of_redis
from uvicorn_worker.broadcast.resp import slot_of
from uvicorn_worker.errors import GroupsUnavailable, InvalidOption

from .harness import Log, Worker, eventually, workers_of
from .redis_server import RedisServer, find_binary, free_port, wait_until
from .test_redis_faults import say_until_heard

pytestmark = pytest.mark.usefixtures("on_uvloop")

QUICK = "ping=0.25&dead=1&send_timeout=0.5"


# -- TLS


def knows_tls() -> bool:
    """Whether the server was built with TLS, and so misses a certificate."""
    command = [find_binary(), "--port", "0", "--tls-port", "1"]
    return "Failed to configure" in subprocess.run(command, capture_output=True, text=True).stdout


@pytest.fixture
def certificate(directory: str) -> tuple[str, str]:
    """Files of a certificate for localhost and of its key."""
    certfile, keyfile = os.path.join(directory, "cert.pem"), os.path.join(directory, "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj /CN=localhost -addext"
    files = ["subjectAltName=DNS:localhost", "-keyout", keyfile, "-out", certfile]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return certfile, keyfile


@pytest.mark.skipif(not knows_tls(), reason="the server has no TLS")
async def test_tls_with_a_password_is_a_way_for_those_who_know_the_certificate(
    directory: str, certificate: tuple[str, str]
) -> None:
    certfile, keyfile = certificate
    port = free_port()
    tls = ["--tls-port", str(port), "--tls-cert-file", certfile, "--tls-key-file", keyfile, "--tls-auth-clients", "no"]
    with RedisServer(Path(directory), *tls) as server:
        server.admin.config_set("requirepass", "secret")
        async with workers_of(f"rediss://:secret@localhost:{port}?ssl_ca_certs={certfile}", 2) as (one, other):
            await one.add("chat")
            await other.send("chat", text="x" * 100000)
            await one.hears("chat", "x" * 100000)
        for url in (f"rediss://:secret@localhost:{port}", f"rediss://:secret@127.0.0.1:{port}?ssl_ca_certs={certfile}"):
            async with workers_of(url, 1) as (stranger,):
                assert any("certificate verify failed" in line for line in stranger.log.lines)


# -- Sentinels


class Sentinels:
    """Three Sentinels over a master and a replica."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.master = stack.enter_context(RedisServer(folder))
        self.replica = stack.enter_context(RedisServer(folder, "--replicaof", "127.0.0.1", str(self.master.port)))
        wait_until(lambda: self.replica.admin.info("replication")["master_link_status"] == "up")
        self._sentinels = []
        for _ in range(3):
            port = free_port()
            file = folder / f"sentinel-{port}.conf"
            file.write_text(
                f"sentinel monitor main 127.0.0.1 {self.master.port} 2\n"
                "sentinel down-after-milliseconds main 500\n"
                "sentinel failover-timeout main 3000\n"
            )
            self._sentinels.append(stack.enter_context(RedisServer(folder, port=port, sentinel=file)))
        wait_until(lambda: all(self._is_ready(sentinel) for sentinel in self._sentinels))

    def _is_ready(self, sentinel: RedisServer) -> bool:
        state = sentinel.admin.sentinel_masters()["main"]
        return (state["num-other-sentinels"], state["num-slaves"]) == (2, 1)

    @property
    def url(self) -> str:
        nodes = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self._sentinels)
        return f"redis+sentinel://{nodes}/main/0?{QUICK}"


@pytest.fixture
def sentinels(directory: str) -> Iterator[Sentinels]:
    with ExitStack() as stack:
        yield Sentinels(Path(directory), stack)


def ours(server: RedisServer) -> list[dict[str, str]]:
    """The connections of workers."""
    return [client for client in server.clients() if client["name"] == "ours"]


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_failover_has_all_workers_go_to_the_new_master(sentinels: Sentinels, fault: signal.Signals) -> None:
    async with workers_of(sentinels.url + "&client_name=ours", 2) as (one, other):
        for worker in (one, other):
            await worker.add("chat")
        await one.send("chat", text="before")
        await other.hears("chat", "before")
        sentinels.master.signal(fault)
        for worker in (one, other):
            await worker.sink.until(lambda sink=worker.sink: sink.gaps)
        await say_until_heard(one, "chat", "after", one, other)
        if fault == signal.SIGSTOP:
            sentinels.master.signal(signal.SIGCONT)
            await eventually(lambda: ours(sentinels.master) == [])
        await say_until_heard(other, "chat", "at last", one, other)
        await eventually(lambda: all(worker.engine.stats()["connected"] for worker in (one, other)))
        assert len(ours(sentinels.replica)) == 4


async def test_sentinels_that_know_no_master_of_the_name_are_said_so(sentinels: Sentinels) -> None:
    async with workers_of(sentinels.url.replace("/main", "/another"), 1) as (one,):
        assert any("knows no such master" in line for line in one.log.lines)
        with pytest.raises(GroupsUnavailable, match="knows no such master"):
            await one.send("chat", text="hi")


# -- clusters


class Cluster:
    """Three masters, and a replica of the first."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
        coverage = ["--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0"]
        self.nodes = [stack.enter_context(RedisServer(folder, *options, *coverage)) for _ in range(4)]
        first = self.nodes[0].admin
        for node in self.nodes[1:]:
            first.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
        for number, node in enumerate(self.nodes[:3]):
            node.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", number * 5462, min(number * 5462 + 5461, 16383))
        wait_until(lambda: all(self._knows_all(node) for node in self.nodes))
        self.nodes[3].admin.execute_command("CLUSTER", "REPLICATE", self.id_of(self.nodes[0]))
        wait_until(lambda: self.nodes[3].admin.info("replication")["master_link_status"] == "up")
        wait_until(lambda: all(self._knows_replica(node) for node in self.nodes))

    def _knows_all(self, node: RedisServer) -> bool:
        info = node.admin.execute_command("CLUSTER", "INFO")
        state = info if isinstance(info, dict) else dict(line.split(":") for line in info.split())
        return (state["cluster_state"], int(state["cluster_known_nodes"])) == ("ok", 4)

    def _knows_replica(self, node: RedisServer) -> bool:
        return any("slave" in flags for _, flags in self._members(node))

    def _members(self, node: RedisServer) -> list[tuple[str, str]]:
        """The names and the flags of all nodes."""
        nodes = node.admin.execute_command("CLUSTER", "NODES")
        if isinstance(nodes, dict):
            return [(str(each["node_id"]), str(each["flags"])) for each in nodes.values()]
        return [(line.split()[0], line.split()[2]) for line in nodes.splitlines()]

    def id_of(self, node: RedisServer) -> str:
        return str(node.admin.execute_command("CLUSTER", "MYID"))

    @property
    def url(self) -> str:
        nodes = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])
        return f"redis+cluster://{nodes}?{QUICK}"


@pytest.fixture
def cluster(directory: str) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(Path(directory), stack)


GROUPS = [f"group {number}" for number in range(30)]


async def send_all(speaker: Worker, text: str) -> None:
    for group in GROUPS:
        await speaker.send(group, text=text)


async def test_groups_live_on_all_nodes_and_move_with_their_slots(cluster: Cluster) -> None:
    async with workers_of(cluster.url, 4) as (one, other, late, speaker):
        await one.add(*GROUPS)
        await other.add(*GROUPS)
        await send_all(one, "first")
        for worker in (one, other):
            await worker.sink.until(lambda sink=worker.sink: len(sink.received) == 30)
        stats = one.engine.stats()
        assert stats == {"connected": True, "reconnects": 0, "subscriptions": 30, "waiting": 0, "masters": 3}
        for node in cluster.nodes[:3]:
            assert len(node.admin.execute_command("PUBSUB", "SHARDCHANNELS")) >= 5

        for worker in (one, other):
            await worker.add("chat")
        source = cluster.nodes[slot_of(b"chat") // 5462]
        target = cluster.nodes[1] if source is cluster.nodes[0] else cluster.nodes[0]
        assert "chat" in source.admin.execute_command("PUBSUB", "SHARDCHANNELS")
        for node in (target, source, *cluster.nodes[:3]):
            node.admin.execute_command("CLUSTER", "SETSLOT", slot_of(b"chat"), "NODE", cluster.id_of(target))
        for worker in (one, other):
            await worker.sink.until(lambda sink=worker.sink: sink.gaps)
            assert [gap.groups for gap in worker.sink.gaps] == [frozenset({"chat"})]
        await speaker.send("chat", text="of one who has not heard of it")
        await late.add("chat")
        await say_until_heard(speaker, "chat", "moved", one, other, late)
        assert one.sink.of("chat")[0] == {"text": "of one who has not heard of it"}
        assert late.sink.gaps == []
        assert "chat" in target.admin.execute_command("PUBSUB", "SHARDCHANNELS")
        for worker in (one, other):
            for group in (*GROUPS, "chat"):
                worker.engine.discard(group)
        await eventually(lambda: one.engine.stats()["subscriptions"] == other.engine.stats()["subscriptions"] == 0)


async def test_the_groups_of_a_node_that_dies_go_on_at_its_replica(cluster: Cluster) -> None:
    async with workers_of(cluster.url, 2) as (one, other):
        await one.add(*GROUPS)
        await other.add(*GROUPS)
        concerned = frozenset(cluster.nodes[0].admin.execute_command("PUBSUB", "SHARDCHANNELS"))
        cluster.nodes[0].kill()
        for worker in (one, other):
            await worker.sink.until(lambda sink=worker.sink: sink.gaps)
        assert {gap.groups for worker in (one, other) for gap in worker.sink.gaps} == {concerned}
        for group in GROUPS:
            await say_until_heard(one, group, "after", one, other)
        assert frozenset(cluster.nodes[3].admin.execute_command("PUBSUB", "SHARDCHANNELS")) == concerned
        await eventually(lambda: one.engine.stats()["connected"])


async def test_a_cluster_that_is_down_at_the_start_is_found_when_it_is_there(directory: str) -> None:
    ports = [free_port(), free_port()]
    url = f"redis+cluster://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}?{QUICK}"
    async with workers_of(url, 1) as (one,):
        with pytest.raises(GroupsUnavailable, match="no node of the cluster has the group: no node says"):
            await one.send("chat", text="hi")
        assert one.engine.stats()["connected"] is False
        with RedisServer(Path(directory), "--cluster-enabled", "yes", port=ports[1]) as server:
            server.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await one.add("chat")
            await say_until_heard(one, "chat", "hi", one)
        assert sum("out of reach" in line for line in one.log.lines if "Redis is" in line) >= 1


async def test_who_is_not_let_into_a_cluster_can_not_start(directory: str) -> None:
    with RedisServer(Path(directory), "--cluster-enabled", "yes") as server:
        server.admin.config_set("requirepass", "secret")
        engine = engine_of_redis(f"redis+cluster://:wrong@127.0.0.1:{server.port}", Log())
        with pytest.raises(InvalidOption, match="the cluster 127.0.0.1:.* does not let the worker in"):
            await engine.start(Worker(engine).sink)
