"""Runs a detector over many sources at once: cameras, addresses, videos and folders.

``cameras`` finds the sources, ``readers`` reads them in threads, ``queues`` are between the threads, ``flow`` runs it
all, ``outputs`` (with ``coco_results``) writes, ``summaries`` counts, ``benchmark`` measures. Independent of
the backend.
"""
