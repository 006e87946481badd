"""Who may do what: keys of the HTTP API, privileges and logins of PostgreSQL, and whether the secret key is the database's."""
