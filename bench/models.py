#!/usr/bin/env python3
"""500 small models in dbt's shape: a full build, and one with nothing to do.

Writes a project of one seed of --rows rows and --models models into a fresh folder: a fifth are views over the seed, the
others tables, each over two models before it (an aggregate, a join or a filter in turn), with a check on each table.
Prints wall and CPU seconds and peak memory of `models check`, of the first `models build`, and of --again builds with
nothing to do, of which it quotes the median.
"""
import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time


def write(root, models, rows):
    os.makedirs(f"{root}/models")
    os.makedirs(f"{root}/seeds")
    with open(f"{root}/dbt_project.yml", "w") as file:
        file.write("name: many\nmodels:\n  many:\n    +materialized: table\n")
    chance = random.Random(1)
    with open(f"{root}/seeds/facts.csv", "w") as file:
        file.write("id,grp,amount\n")
        for n in range(rows):
            file.write(f"{n},{chance.randrange(20)},{chance.randrange(100000)}\n")
    checks = []
    for n in range(models):
        name = f"m{n:03}"
        if n % 5 == 0:
            text = f"{{{{ config(materialized='view') }}}}\nselect id, grp, amount + {n} as amount from {{{{ ref('facts') }}}} where id % 7 <> {n % 7}\n"
        else:
            one = f"m{chance.randrange(max(0, n - 20), n):03}"
            two = f"m{chance.randrange(max(0, n - 20), n):03}"
            form = n % 3
            if form == 0:
                text = f"select min(id) as id, grp, sum(amount) % 1000003 as amount from {{{{ ref('{one}') }}}} group by grp\n"
            elif form == 1:
                text = f"select a.id, a.grp, (a.amount + b.amount) % 1000003 as amount from {{{{ ref('{one}') }}}} a join (select distinct grp, min(amount) as amount from {{{{ ref('{two}') }}}} group by grp) b on a.grp = b.grp\n"
            else:
                text = f"select id, grp, case when amount > {n} then amount else 0 end as amount from {{{{ ref('{one}') }}}}\n"
            checks.append(f"  - name: {name}\n    columns:\n      - name: grp\n        tests: [not_null]\n")
        with open(f"{root}/models/{name}.sql", "w") as file:
            file.write(text)
    with open(f"{root}/models/schema.yml", "w") as file:
        file.write("models:\n" + "".join(checks))


def run(binary, root, *arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    done = subprocess.run([binary, "-C", root, *arguments], capture_output=True, text=True)
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, after.ru_maxrss / 1024, done.stderr.strip().splitlines()[-1:]


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--binary", default="target/release/tidemill")
    parse.add_argument("--models", type=int, default=500)
    parse.add_argument("--rows", type=int, default=1000)
    parse.add_argument("--again", type=int, default=5)
    given = parse.parse_args()
    binary = os.path.abspath(given.binary)
    with tempfile.TemporaryDirectory() as root:
        write(root, given.models, given.rows)
        for what, arguments in [("check", ["models", "check"]), ("full build", ["models", "build"])]:
            wall, cpu, memory, said = run(binary, root, *arguments)
            print(f"{what:<12} {wall:7.2f} s wall {cpu:7.2f} s CPU {memory:6.0f} MB  {' '.join(said)}")
        again = [run(binary, root, "models", "build") for _ in range(given.again)]
        wall, cpu = (statistics.median(one[n] for one in again) for n in (0, 1))
        print(f"{'no-op build':<12} {wall:7.2f} s wall {cpu:7.2f} s CPU (median of {given.again})  {' '.join(again[0][3])}")


if __name__ == "__main__":
    main()
