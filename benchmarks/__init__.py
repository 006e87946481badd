"""How fast it is, measured side by side with what else there is, in one run on one machine.

Reading order: ``run`` (the command), ``hints``, ``active`` and ``imports`` (the benchmarks), ``contenders`` (who is measured),
``stack`` (the processes), ``load`` and ``bodies`` (what is sent), ``figures`` (medians, ratios, tables).
"""
