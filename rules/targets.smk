"""What can be asked for by name, besides `all` and any file.

INPUTS   everything that the listed variants need
OUTPUTS  bench/table.{md,csv,json} and report.html, by the job that judges; bench/baselines/*.json
"""


rule export_all:
    input:
        GRAPHS,


rule build_all:
    input:
        VARIANT_FILES,


use rule all as verify_all with:
    input:
        VERDICTS,


use rule all as bench_all with:
    input:
        VERDICTS,
        BENCHMARKS,


# PyTorch and transformers on the same GPU: for the joined table (sam3-runtime table).
rule baselines_all:
    input:
        BASELINES,


# Every variant on the whole data set of `accuracy:`.
rule accuracy_all:
    input:
        ACCURACIES,
