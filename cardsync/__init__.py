"""cardsync: a merchant's own, always-true registry of the card tokens that Ottu keeps.

The story in ten lines:

1.  A shopper pays; Ottu sends a signed notification. It is a *hint* that a customer's cards may have changed.
2.  ``receive`` verifies it, writes one durable row (a file, while the database is away: ``drain``) and answers: a payer waits.
3.  The row is the job. The broker only rings the bell; a sweep rings again what nobody answered.
4.  ``process`` folds hints into one fact per customer: "may differ from Ottu since ...".
5.  ``reconcile`` takes a numbered *ticket*, asks Ottu for the customer's cards, and believes the answer *once*,
6.  only if the ticket still stands and nothing newer has been believed of that customer.
7.  ``core.diff.plan`` decides, purely, what is added, updated, removed (on proof alone) or back again.
8.  The database writes the feed of changes itself, at commit, in commit order and without gaps.
9.  ``sweep`` looks again where ``core.schedule`` expects most; ``audit`` draws some by lot; ``forget`` drops what is old.
10. Billing, checkout and support read the ``registry`` schema or ``/v1``; they never see a private table.

Reading order: ``errors``, ``core/cards``, ``core/events``, ``core/diff``, then the stories ``receive``, ``process``,
``reconcile`` with ``believe``, ``sweep``, then ``store/``, ``ottu`` and ``web/``.
"""
