"""cardsync: a merchant's own, always-true registry of the card tokens that Ottu keeps.

The story in ten lines:

1.  A shopper pays, and Ottu sends a signed notification. It is a *hint* that a customer's cards may have changed.
2.  ``receive`` verifies it, makes it durable in the inbox (on disk while the database is away: ``drain``), and answers.
3.  The row is the job. The broker only rings a bell; if the bell is lost, a sweep rings again.
4.  ``process`` folds hints into one fact per customer: "may differ from Ottu since ...".
5.  ``reconcile`` takes a numbered *ticket*, asks Ottu for the customer's cards, and applies the answer *once*,
6.  only if the ticket still stands. ``core.diff.plan`` decides what is added, updated, removed (on proof alone) or back again.
7.  The database itself writes the feed of changes, at commit, in commit order and without gaps.
8.  ``delete`` asks Ottu to delete a card, and leaves the verdict to a list: only a later list without the card is the proof.
9.  ``sweep`` looks where ``core.schedule`` expects most; ``audit`` looks at random customers; ``forget`` removes old data.
10. Billing, checkout and support read the ``registry`` schema or ``/v1``; they never see a private table.

Reading order, each file after those that it needs:

- ``docs/design.md``: the one idea, and why. ``errors``: what can go wrong, and what the caller should do.
- ``core/cards``, ``core/events``, ``core/signature``, then ``stories/receive`` and ``store/intake``: a hint becomes a row.
- ``store/customers``: the ticket. Then ``core/diff``: what a list may change. Then ``stories/process``, ``stories/reconcile`` and
  ``stories/apply_list``: the two meet.
- ``core/deletion``, ``stories/delete``, ``store/deletions/``: a deletion to its proof.
- ``core/schedule``, ``stories/sweep``, ``core/call_budget``, ``store/calls/``: which calls are made, and when.
- ``stories/claim``, ``store/claims``, ``workers/dispatch/``: how a worker takes the most urgent work.
- ``core/delivery``, ``stories/deliver``, ``store/deliveries/``, ``outgoing/``: what is passed on to the merchant's endpoints.
- ``store/console/``, ``stories/carry_out``, ``web/console/``: what operators see, and what is carried out for them.
- ``ottu/``, ``web/``, ``workers/``, ``cli/``: the edges.

``docs/architecture.md`` walks through four of these ways function by function, and ``docs/glossary.md`` explains the words.
"""
