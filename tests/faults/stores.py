"""Stores that are away for a while: a locked SQLite file, an MLflow server, PostgreSQL."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

from tests.faults.holdings import differences, read_holdings
from tests.faults.kills import check_store, compare_store
from tests.faults.processes import Running, outlived
from tests.faults.registry import fault
from tests.faults.servers import MlflowServer, PostgresServer
from tests.faults.workshop import COMMANDS, Place, Workshop

LOCKED_S = 30.0
AWAY_S = 60.0


@fault("locked-sqlite", repeats=3)
def locked_sqlite(shop: Workshop, rng: random.Random) -> Counter[str]:
    """Another process holds SQLite's write lock for thirty seconds."""
    reference = shop.undisturbed("run")
    place = shop.place()
    process = place.start(COMMANDS["run"])
    database = place.folder / "mlruns" / "mlflow.db"
    while not database.exists() and not outlived(process, 0.1):
        pass
    outlived(process, rng.uniform(0, reference.seconds))
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(LOCKED_S)
        connection.rollback()
    ended = place.wait(process)
    assert ended.status == 0, f"ended with {ended.status}: {ended.err[-1500:]}"
    check_store(place, shop, "run")
    return Counter({"locks": 1})


@contextmanager
def served(shop: Workshop) -> Iterator[tuple[MlflowServer, Place]]:
    """An MLflow server, and a place whose commands use it."""
    place = shop.place()
    server = MlflowServer(place.folder / "server")
    server.start()
    place.environment["MLFLOW_TRACKING_URI"] = server.uri
    try:
        yield server, place
    finally:
        server.stop()


def await_run(place: Place, process: Running) -> None:
    """Wait until a command has a run open: a store that is away before that is refused."""
    state = place.folder / "mlruns" / "state"
    while not list(state.glob("*")) and not outlived(process, 0.05):
        pass


def outage(shop: Workshop, rng: random.Random, name: str) -> Counter[str]:
    """Kill the server at a random moment, and bring it back after a minute."""
    reference = shop.undisturbed(name)
    with served(shop) as (server, place):
        process = place.start(COMMANDS[name])
        await_run(place, process)
        if outlived(process, rng.uniform(0, 0.6) * reference.seconds):
            return Counter({"too late": 1})
        server.stop(hard=True)
        back = threading.Timer(AWAY_S, server.start)
        back.start()
        ended = place.wait(process)
        back.join()
        assert ended.status == 0, f"ended with {ended.status}: {ended.err[-1500:]}"
        # A command that came to its end while the server was away keeps what it had to say.
        sent = place.finish(COMMANDS["sync"])
        compare_store(place, shop, name, server.uri)
    shop.clear(place)
    return Counter({"outages": 1, "sent by sync": int('"sent": []' not in sent.out)})


@fault("outage-run", repeats=3)
def outage_run(shop: Workshop, rng: random.Random) -> Counter[str]:
    """The MLflow server dies while a run uses it, and is back after a minute."""
    return outage(shop, rng, "run")


@fault("outage-ablation", repeats=2)
def outage_ablation(shop: Workshop, rng: random.Random) -> Counter[str]:
    """The MLflow server dies while an ablation uses it, and is back after a minute."""
    return outage(shop, rng, "ablation")


@fault("outage-sweep", repeats=2)
def outage_sweep(shop: Workshop, rng: random.Random) -> Counter[str]:
    """The MLflow server dies while a search uses it, and is back after a minute."""
    return outage(shop, rng, "sweep")


@fault("server-gone", repeats=2)
def server_gone(shop: Workshop, rng: random.Random) -> Counter[str]:
    """The MLflow server dies for good; the run ends all the same, and is sent the next day."""
    with served(shop) as (server, place):
        process = place.start(COMMANDS["run"])
        await_run(place, process)
        outlived(process, rng.uniform(0, 0.5))
        server.stop(hard=True)
        ended = place.wait(process)
        assert ended.status == 0, f"ended with {ended.status}: {ended.err[-1500:]}"
        assert "kept in" in ended.err
        server.start()
        place.finish(COMMANDS["sync"])
        compare_store(place, shop, "run", server.uri)
    shop.clear(place)
    return Counter({"gone": 1})


@fault("postgres-restart", repeats=3)
def postgres_restart(shop: Workshop, rng: random.Random) -> Counter[str]:
    """PostgreSQL is restarted, its connections cut, while a search keeps its study there."""
    reference = shop.undisturbed("sweep")
    place = shop.place()
    with PostgresServer() as server:
        command = [*COMMANDS["sweep"], f"search.storage={server.url}"]
        process = place.start(command)
        await_run(place, process)
        if outlived(process, rng.uniform(0, 0.6) * reference.seconds):
            return Counter({"too late": 1})
        server.restart()
        ended = place.wait(process)
        assert ended.status == 0, f"ended with {ended.status}: {ended.err[-2500:]}"
        found = read_holdings(place.folder / "mlruns", trials_url=server.url)
        lines = differences(reference.holdings, found)
        assert not lines, "; ".join(lines)[:2000]
    shop.clear(place)
    return Counter({"restarts": 1})
