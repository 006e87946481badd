"""Endpoints of the merchant's, what is kept to be passed on to them, and the deliveries. The worker alone reads a kept body."""
