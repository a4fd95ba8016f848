"""What the shop stores."""

from django.db import models


class Order(models.Model):
    reference = models.CharField(max_length=40, unique=True)
    state = models.CharField(max_length=20, default="placed")

    def __str__(self) -> str:
        return f"{self.reference} ({self.state})"
