"""Damaged and hostile files, made from seeds, through the readers that people's files go through.

    PYTHONPATH=tests python -m fuzz [FORMAT …] [--count 10000] [--seed 0]      `make fuzz`
    PYTHONPATH=tests python -m fuzz bundle --seed 123 --only 17                one input again, with the traceback

A reader may give what the whole file gives, refuse the file in one or two lines, or, where a format has no digest,
give what the changed bytes say. A raw exception, another value under a digest, a minute of work or two gigabytes of
memory are faults.
"""
