"""Reads one Delta table with the packages that people use, and prints what each of them finds as one JSON object.

usage: readers.py TABLE_FOLDER NUMBER_COLUMN

Every reader gives the number of rows, the number of distinct event ids, and the sum of a column in hundredths. DuckDB reads twice: the
rows that `deltalake` hands it as Arrow, and the Parquet files that the log names, by itself.
"""
import decimal
import json
import sys

import deltalake
import duckdb
import pandas
import polars
import pyarrow
import pyarrow.compute

folder, column = sys.argv[1:]
found = {}


def hundredths(total):
    return int((decimal.Decimal(str(total)) * 100).to_integral_value())


table = deltalake.DeltaTable(folder)
rows = pyarrow.table(table.to_pyarrow_table())
found["pyarrow"] = {
    "rows": rows.num_rows,
    "ids": len(rows["event_id"].unique()),
    "sum": hundredths(pyarrow.compute.sum(rows[column]).as_py()),
}

frame = table.to_pandas()
assert isinstance(frame, pandas.DataFrame)
found["pandas"] = {"rows": len(frame), "ids": frame["event_id"].nunique(), "sum": hundredths(frame[column].sum())}

lazy = polars.scan_delta(folder).select(
    polars.len().alias("rows"), polars.col("event_id").n_unique().alias("ids"), polars.col(column).sum().alias("sum")
)
one = lazy.collect().row(0, named=True)
found["polars"] = {"rows": one["rows"], "ids": one["ids"], "sum": hundredths(one["sum"])}

select = f'SELECT count(*), count(DISTINCT event_id), sum("{column}") FROM '
connection = duckdb.connect()
connection.register("handed", rows)
for name, source, given in [
    ("duckdb over arrow", "handed", []),
    ("duckdb over the files", "read_parquet(?)", [table.file_uris()]),
]:
    count, ids, total = connection.execute(select + source, given).fetchone()
    found[name] = {"rows": count, "ids": ids, "sum": hundredths(total)}

print(json.dumps(found))
