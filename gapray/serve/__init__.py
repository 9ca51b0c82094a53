"""The server: HTTP APIs and a web page, jobs in a database, and workers as Ray Serve deployments."""
