"""One product over HTTP: jobs in a database, Ray Serve deployments, the APIs and the page."""
