"""HTTP: connections, bodies, routes and answers."""
