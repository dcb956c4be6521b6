"""A map over HTTP: the server behind ``vpr serve``, and the client that asks it."""
