"""What is known from outside: metrics, traces, the access log, one observation of each request."""
