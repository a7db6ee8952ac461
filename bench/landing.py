#!/usr/bin/env python3
"""Kafka to Delta: Tidemill's landing beside the loop people write in Python, on the same topic in one run.

Fills a topic with --events Avro records of about 80 bytes and 10 columns, lands it with `tidemill dags run --drain` in a
fresh project, and prints wall and CPU seconds, events per CPU-second (the broker is another process and not counted)
and peak memory. `--mixed` does the same with three schema ids in turn and 1 % records that cannot be decoded.
`--delay RATE` produces RATE events a second for --seconds while a stream runs, and prints how old records were when
the commit that holds them was in the log. `--small RATE` does that with the small profile and counts files, too.

Needs a broker (--broker, else TIDEMILL_TEST_KAFKA) and the packages confluent-kafka and fastavro; the peer and the
delays also deltalake and pyarrow. A peer that is not installed says so.
"""
import argparse
import glob
import importlib.util
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import fastavro
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FIELDS = [
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "event_name", "type": "string"},
    {"name": "user_id", "type": "string"},
    {"name": "session", "type": "long"},
    {"name": "item_id", "type": ["null", "string"], "default": None},
    {"name": "country", "type": "string"},
    {"name": "quantity", "type": "int"},
    {"name": "price", "type": "double"},
    {"name": "paid", "type": "boolean"},
    {"name": "referrer", "type": ["null", "string"], "default": None},
]
# Three ids: as above, in another order, and with one field more.
SCHEMAS = [
    {"type": "record", "name": "Event", "fields": FIELDS},
    {"type": "record", "name": "Event", "fields": FIELDS[::-1]},
    {"type": "record", "name": "Event", "fields": FIELDS + [{"name": "campaign", "type": ["null", "string"], "default": None}]},
]
POOL = 20_000
DAG = """
[tasks.land]
kind = "stream"
stream = "bench"
topics = ["{topic}"]
run_for = "1h"
"""
SETTINGS = """
[topics]
broker = "kafka://{broker}"
[paths]
schemas = "schemas"
{more}
"""


def event(n):
    return {
        "at": 1_739_803_755_179_171 + 1_000 * n, "event_name": ("item_view", "added_to_cart", "sign_in")[n % 3],
        "user_id": f"{n * 7919 % 1_000_000:06}", "session": n * 1_000_003 % (1 << 40), "item_id": f"item-{n % 8701:08}",
        "country": ("GE", "DE", "US", "FR")[n % 4], "quantity": n % 9, "price": (n % 10_000) / 100, "paid": n % 2 == 0,
        "referrer": None if n % 3 else "https://shop.example/a", "campaign": None,
    }


def payloads(ids, poison):
    """A pool of framed records: `ids` in turn, every `poison`-th cut short."""
    pool = []
    for n in range(POOL):
        schema = n % len(ids)
        body = io.BytesIO()
        fastavro.schemaless_writer(body, PARSED[schema], event(n))
        bytes_ = b"\0" + ids[schema].to_bytes(4, "big") + body.getvalue()
        pool.append(bytes_[:-3] if poison and n % poison == poison - 1 else bytes_)
    return pool


PARSED = [fastavro.parse_schema(dict(schema)) for schema in SCHEMAS]


class Project:
    """A project of its own with one stream over a topic of its own."""

    def __init__(self, folder, binary, broker, partitions, ids, more=""):
        self.folder, self.binary, self.broker = folder, binary, broker
        self.topic = f"bench-{uuid.uuid4().hex[:8]}"
        for name in ("dags", "schemas"):
            os.makedirs(os.path.join(folder, name), exist_ok=True)
        write(folder, "tidemill.toml", SETTINGS.format(broker=broker, more=more))
        write(folder, "dags/bench.toml", DAG.format(topic=self.topic))
        for n, schema_id in enumerate(ids):
            write(folder, f"schema-{n}.avsc", json.dumps(SCHEMAS[n]))
            self.run("schemas", "add", f"{self.topic}-value", f"{folder}/schema-{n}.avsc", "--id", str(schema_id))
        admin = AdminClient({"bootstrap.servers": broker})
        admin.create_topics([NewTopic(self.topic, partitions, 1)])[self.topic].result()

    def command(self, *words):
        return [self.binary, "-C", self.folder, "--quiet", *words]

    def run(self, *words):
        done = subprocess.run(self.command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(words)}\n{done.stdout}")
        return done.stdout

    def table(self):
        return os.path.join(self.folder, "lake/bronze", self.topic)

    def counts(self):
        sql = f'select (select count(*) from bronze."{self.topic}") as n'
        rows = json.loads(self.run("query", sql, "--format", "json"))[0]["n"]
        dead = 0
        if os.path.isdir(os.path.join(self.folder, "lake/bronze/dead_letters")):
            dead = json.loads(self.run("query", "select count(*) n from bronze.dead_letters", "--format", "json"))[0]["n"]
        return rows, dead


def write(folder, name, text):
    with open(os.path.join(folder, name), "w") as out:
        out.write(text)


def produce(broker, topic, pool, events, rate=None, until=None):
    """Produces `events` records, or RATE a second until the time `until`; returns how many."""
    producer = Producer({
        "bootstrap.servers": broker, "linger.ms": 5 if rate else 50, "batch.size": 1_000_000, "compression.type": "lz4",
        "queue.buffering.max.messages": 2_000_000, "queue.buffering.max.kbytes": 1_000_000,
    })
    sent, start = 0, time.time()
    while (until is None and sent < events) or (until is not None and time.time() < until):
        if rate is not None:
            due = int((time.time() - start) * rate)
            if sent >= due:
                producer.poll(0)
                time.sleep(0.002)
                continue
        try:
            producer.produce(topic, pool[sent % POOL])
            sent += 1
        except BufferError:
            producer.poll(0.05)
        if sent % 10_000 == 0:
            producer.poll(0)
    producer.flush()
    return sent


def timed(command):
    """Wall seconds, CPU seconds and peak memory in MB of one process."""
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}\n{said}")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def line(name, events, wall, cpu, memory):
    print(f"{name:26}{events:12,}{wall:9.2f}{cpu:9.2f}{events / cpu / 1e6:12.3f}{memory:10.0f}", flush=True)
    return events / cpu


def throughput(arguments, mixed):
    ids, poison = ([1, 2, 3], 100) if mixed else ([1], 0)
    pool = payloads(ids, poison)
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-", dir=arguments.folder) as folder:
        project = Project(folder, arguments.binary, arguments.broker, arguments.partitions, ids)
        produce(arguments.broker, project.topic, pool, arguments.events)
        wall, cpu, memory = timed(project.command("dags", "run", "bench", "--drain"))
        rows, dead = project.counts()
        assert rows + dead == arguments.events, (rows, dead)
        assert (dead > 0) == mixed, dead
        ours = line("tidemill, mixed" if mixed else "tidemill", arguments.events, wall, cpu, memory)
        theirs = None
        if not mixed and not arguments.no_peer and importlib.util.find_spec("deltalake"):
            script = os.path.join(ROOT, "bench/peers/landing_loop.py")
            part = min(arguments.events, arguments.peer_events)
            command = [sys.executable, script, arguments.broker, project.topic, os.path.join(folder, "peer"), str(part)]
            theirs = line("python loop", part, *timed(command))
        elif not mixed:
            print("the python loop is not run: no comparison")
        return ours, theirs


def delays(arguments, rate, more):
    import pyarrow.parquet as parquet

    pool = payloads([1], 0)
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-", dir=arguments.folder) as folder:
        project = Project(folder, arguments.binary, arguments.broker, arguments.partitions, [1], more)
        child = subprocess.Popen(project.command("dags", "run", "bench"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(3)
        until = time.time() + arguments.seconds
        counted = []
        producing = threading.Thread(target=lambda: counted.append(
            produce(arguments.broker, project.topic, pool, 0, rate, until)))
        producing.start()
        producing.join()
        time.sleep(3)
        child.send_signal(signal.SIGTERM)
        _, _, usage = os.wait4(child.pid, 0)
        late, commits = [], 0
        for entry in sorted(glob.glob(os.path.join(project.table(), "_delta_log/*.json"))):
            visible = os.stat(entry).st_mtime
            for action in map(json.loads, open(entry)):
                if "add" in action and action["add"]["dataChange"]:
                    commits += 1
                    column = parquet.read_table(os.path.join(project.table(), action["add"]["path"]), columns=["_timestamp"])
                    late += [visible - at.timestamp() for at in column["_timestamp"].to_pylist()]
        late.sort()
        files = len(glob.glob(os.path.join(project.table(), "*.parquet")))
        shown = json.loads(project.run("--json", "tables", "show", f"bronze.{project.topic}"))
        assert len(late) >= counted[0], (len(late), counted)
        at = lambda share: late[min(len(late) - 1, int(len(late) * share))]
        cpu = usage.ru_utime + usage.ru_stime
        print(f"{rate:,} events/s for {arguments.seconds} s: {len(late):,} rows in {commits} commits; produced to queryable: "
              f"p50 {at(0.5):.3f} s, p99 {at(0.99):.3f} s, max {late[-1]:.3f} s; {cpu:.1f} CPU s; {usage.ru_maxrss / 1024:.0f} MB; "
              f"{shown['files']} files in the table, {files} in its folder", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=os.path.join(ROOT, "target/release/tidemill"))
    parser.add_argument("--broker", default=os.environ.get("TIDEMILL_TEST_KAFKA"))
    parser.add_argument("--folder", help="where projects are made; by default the system's temporary folder")
    parser.add_argument("--events", default=5_000_000, type=int)
    parser.add_argument("--peer-events", default=1_000_000, type=int)
    parser.add_argument("--partitions", default=8, type=int)
    parser.add_argument("--runs", default=1, type=int)
    parser.add_argument("--seconds", default=30, type=int)
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--delay", type=int)
    parser.add_argument("--small", type=int)
    arguments = parser.parse_args()
    if not arguments.broker:
        sys.exit("name a broker with --broker or TIDEMILL_TEST_KAFKA")
    if arguments.delay:
        delays(arguments, arguments.delay, "")
    if arguments.small:
        delays(arguments, arguments.small, "[maintenance]\nmin_age = \"1s\"")
    if arguments.delay or arguments.small:
        return
    print(f"{os.cpu_count()} cores, {arguments.partitions} partitions, {len(payloads([1], 0)[0])} bytes a record")
    print(f"{'':26}{'events':>12}{'wall s':>9}{'cpu s':>9}{'M/cpu s':>12}{'peak MB':>10}")
    for _ in range(arguments.runs):
        clean, loop = throughput(arguments, False)
        if loop:
            print(f"tidemill / python loop, per CPU second: {clean / loop:.1f}x")
        if arguments.mixed:
            mixed, _ = throughput(arguments, True)
            print(f"mixed / clean: {mixed / clean:.2f}")


main()
