"""RabbitMQ as the broker, Redis for leases and live events only."""
