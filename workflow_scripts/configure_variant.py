"""Link the assets into a variant's folder, and write its configuration once its engines agree with each other."""

from pathlib import Path

from sam3_runtime.core.files import link_relatively
from sam3_runtime.deploy.configure import configure
from sam3_runtime.jobs.job import job
from sam3_runtime.records.records import CheckpointLock

with job(snakemake):
    for asset, link in zip(snakemake.input.assets, snakemake.output.assets, strict=True):
        link_relatively(Path(link), Path(asset))
    output, lock = Path(snakemake.output.config), CheckpointLock.read(Path(snakemake.input.lock))
    configure(output.parent, snakemake.params.chosen, lock).write(output)
