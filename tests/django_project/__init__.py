"""A Django project: its agents are found, its transactions carry messages, its connections are kept clean."""
