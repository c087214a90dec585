"""A seeded fuzzer of everything that reads a file, a setting or a command line.

    make fuzz SECONDS=600 SEED=7
    python -m tests.fuzz --readers sound parquet --seconds 60
    python -m tests.fuzz --repeat sound:1234

A try is a reader's name and a seed: in a fresh folder with a good model, data and run one thing is spoiled, and a
script or a reading function is called, in a process of its own with limits of time and memory. It is fine if the result
is right (exit code 0), or if one line that begins with "error:" names the thing (exit code 2); nothing may be written
outside the output folder, and no good file be lost. Everything else is a failure, and is grouped by its kind.

    __main__.py    the loop, the table, --repeat
    attempt.py     one try: process, limits, verdict
    place.py       the good folder
    mutations.py   ways to spoil bytes, values, tensors, texts, paths
    formats.py     ways to spoil yaml, parquet, npz, ONNX and sound files
    readers.py     what is spoiled and called; to add a reader, add a function there
"""
