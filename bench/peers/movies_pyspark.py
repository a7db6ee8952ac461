"""The batch job in PySpark, on all cores: catalogue file to Parquet with the columns of silver.movies."""
import sys

from pyspark.sql import SparkSession
from pyspark.sql import functions as f

source, target = sys.argv[1:]
spark = (
    SparkSession.builder.master("local[*]")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.memory", "4g")
    .config("spark.sql.session.timeZone", "UTC")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")
blocks = spark.read.option("lineSep", "\nITEM ").text(source)
lines = f.split(f.regexp_replace("value", r"^\ufeff?(ITEM )?", ""), "\n")
pairs = f.filter(f.slice(lines, 2, 1_000_000), lambda line: line.contains("="))
# Keys may repeat: the values of each are gathered into a list.
keys = f.array_distinct(f.transform(pairs, lambda line: f.substring_index(line, "=", 1)))
values = f.transform(
    keys,
    lambda key: f.transform(
        f.filter(pairs, lambda line: f.substring_index(line, "=", 1) == key),
        lambda line: line.substr(f.instr(line, "=") + 1, f.length(line)),
    ),
)
items = blocks.select(
    f.trim(lines[0]).cast("long").alias("item_id"), f.map_from_arrays(keys, values).alias("attributes")
).where("item_id is not null")


def first(name):
    return f.element_at(f.element_at("attributes", name), 1)


def cents(name):
    return (f.regexp_extract(first(name), r"^(\d+)[A-Z]{3}", 1).cast("decimal(12,0)") / 100).cast("decimal(10,2)")


items.select(
    "item_id",
    first("Title").alias("title"),
    first("Genre").alias("genre"),
    first("ProductGroup").alias("product_group"),
    cents("ListPrice").alias("list_price"),
    f.regexp_extract(first("ListPrice"), r"^\d+([A-Z]{3})", 1).alias("list_price_currency"),
    cents("TradeInValue").alias("trade_in_value"),
    first("ReleaseDate").cast("date").alias("release_date"),
    "attributes",
).write.option("compression", "zstd").parquet(target)
