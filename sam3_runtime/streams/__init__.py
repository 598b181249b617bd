"""A detector over many sources at once: cameras, addresses, videos and folders in, results and files out.

``cameras`` says what a source is, ``readers`` read them in threads, ``rounds`` are the queues between, ``flow`` runs
all of it, ``outputs`` (with ``coco_results``) writes, ``summaries`` counts, ``benchmark`` measures. Knows no backend.
"""
