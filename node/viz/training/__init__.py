"""Train: works to rows, rows to a QLoRA adapter, in a child process that anyone can repeat.

Owns the dataset, the loop, the evaluation, the worker process and its parent side. Whoever starts a
run has checked that it may. Importing this package imports neither torch nor transformers.

What a run is: ``run``. From works to rows: ``sentences``, ``facts``, ``words``, ``wordings``,
``frames``, ``dataset``, ``replay``, ``packing``. The model and its step: ``base_weights``,
``nf4_layer``, ``qlora``, ``row_attention``, ``recompute``, ``devices``. The course: ``loop``,
``checkpoint``, ``limits``, ``environment``. What is measured: ``examination`` joins ``recall``,
``evaluate``, ``memorisation`` and ``general``. The processes: ``worker`` is the child, ``process``
the parent. The dry run: ``estimate``, ``pace``, ``memory``.
"""
