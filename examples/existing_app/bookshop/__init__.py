"""A bookshop that has run on Celery for years, and now lets a model talk to its customers."""
