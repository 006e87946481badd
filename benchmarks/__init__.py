"""How fast it is, measured side by side with what else there is, in one run on one machine.

Reading order: ``run`` (the command), ``hints``, ``open_loop``, ``active`` and ``imports`` (the benchmarks), ``contenders`` (who
is measured), ``checkouts`` (another commit of cardsync beside this one), ``stack`` (the processes), ``load``, ``offered`` and
``bodies`` (what is sent), ``processor`` and ``figures`` (processor time, medians, ratios, tables).
"""
