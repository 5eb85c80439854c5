"""Train: works to rows, rows to a QLoRA adapter, in a child process that anyone can repeat.

Owns the dataset, the loop, the evaluation, the worker process and its parent-side runner. Does
not know the chain, money or grants: whoever starts a run has checked them. Importing this package
imports neither torch nor transformers.

Modules: ``run`` (what a run is: settings and inputs), ``dataset`` (rows), ``packing`` (rows to
token batches), ``qlora`` (the model and the step), ``loop`` (schedule, early stop, resume),
``checkpoint`` (its files), ``evaluate`` (held-out loss, answers), ``memorisation`` (what it
repeats), ``environment`` (what makes a run repeatable), ``limits`` (what ends a worker), ``worker``
(the child), ``runner`` (the parent), ``estimate`` and ``pace`` (dry run).
"""
