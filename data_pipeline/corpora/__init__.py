"""One adapter a corpus: from the files of its release to a clip table, and nothing else.

    python -m data_pipeline.corpora grid /data/grid --output clips.csv

An adapter is a module with `clips(root, on_reject) -> rows`: a row is a dict with columns of the
clip table (data_pipeline.table.clips), its `video` an absolute path; a file whose name or label
cannot be read goes to `on_reject`, so that files = rows + rejects. What concerns a whole release is
a warning of its log: counts other than published, files that are passed over on purpose.
"""
