#!/usr/bin/env python3
"""Catalogue file to table: Tidemill's batch job beside its PySpark form, in one run.

Makes a file of --size by repeating --source with items renumbered, then runs both sides --runs times in turn and
prints wall seconds, CPU seconds, peak memory (of the largest process) and MB/s, and the ratio of the medians.
"""
import argparse
import importlib.util
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DAG = """
[params.file]
type = "string"
[tasks.land]
kind = "ingest"
file = "{{ params.file }}"
table = "silver.movies"
"""


def size_of(text):
    number, unit = re.fullmatch(r"(\d+)\s*([KMG]?B)", text).groups()
    return int(number) * {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}[unit]


def make(source, path, size):
    """Repeats `source` to `size` bytes; items are numbered on from 1."""
    body = open(source, "rb").read().replace(b"\r\n", b"\n")
    parts = re.split(rb"(?m)^ITEM \d+", body)[1:]
    written = item = 0
    with open(path, "wb") as out:
        while written < size:
            block = bytearray()
            for part in parts:
                item += 1
                block += b"ITEM %d" % item + part.rstrip(b"\n") + b"\n\n"
            out.write(block)
            written += len(block)
    return item


def timed(command):
    """Wall seconds, CPU seconds, peak memory in MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wall = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}")
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return wall, cpu, after.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=os.path.join(ROOT, "target/release/tidemill"))
    parser.add_argument("--source", default=os.path.join(ROOT, "data/Movies.txt"))
    parser.add_argument("--size", default="1GB", type=size_of)
    parser.add_argument("--runs", default=3, type=int)
    parser.add_argument("--again", action="store_true", help="also time a second run of the same file (an upsert)")
    arguments = parser.parse_args()
    spark = importlib.util.find_spec("pyspark") is not None
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        file = os.path.join(folder, "Movies.txt")
        items = make(arguments.source, file, arguments.size)
        megabytes = os.path.getsize(file) / 1e6
        print(f"{items:,} items, {megabytes:,.0f} MB, {os.cpu_count()} cores")
        rows = {"tidemill": [], "tidemill again": [], "pyspark": []}
        for run in range(arguments.runs):
            project = os.path.join(folder, f"project-{run}")
            os.makedirs(os.path.join(project, "dags"))
            open(os.path.join(project, "tidemill.toml"), "w").close()
            with open(os.path.join(project, "dags/land.toml"), "w") as dag:
                dag.write(DAG)
            command = [arguments.binary, "-C", project, "--quiet", "dags", "run", "land", "--param", f"file={file}"]
            rows["tidemill"].append(timed(command))
            if arguments.again:
                rows["tidemill again"].append(timed(command))
            shutil.rmtree(project)
            if spark:
                target = os.path.join(folder, "spark")
                script = os.path.join(ROOT, "bench/peers/movies_pyspark.py")
                rows["pyspark"].append(timed([sys.executable, script, file, target]))
                shutil.rmtree(target)
        print(f"{'':16}{'wall s':>10}{'cpu s':>10}{'peak MB':>10}{'MB/s':>10}")
        medians = {}
        for name, figures in rows.items():
            if figures:
                wall, cpu, memory = (statistics.median(column) for column in zip(*figures))
                medians[name] = wall
                print(f"{name:16}{wall:10.2f}{cpu:10.2f}{memory:10.0f}{megabytes / wall:10.0f}")
        if "pyspark" in medians:
            print(f"pyspark / tidemill (wall, its start included): {medians['pyspark'] / medians['tidemill']:.1f}x")
        else:
            print("pyspark is not installed: no comparison")


main()
