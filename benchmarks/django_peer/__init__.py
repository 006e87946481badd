"""The peer: the smallest Django project around the webhook view of ``ottu.contrib.django``, its models and migrations."""
