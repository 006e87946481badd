"""The OpenAPI description of the HTTP API, made from the models that validate it, and the page that shows it."""
