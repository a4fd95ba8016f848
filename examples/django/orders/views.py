"""Placing an order, and seeing what has become of it."""

from django.db import IntegrityError, connection, transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_POST

from orders.models import Order
from shopfront.celery import lash


@require_POST
def place(request: HttpRequest) -> JsonResponse:
    """The order and the message land together or not at all; the doorbell rings once they have."""
    reference = request.POST["reference"]
    try:
        with transaction.atomic():
            text = f"Order {reference} was placed."
            receipt = lash.client.send(f"order-{reference}", text, agent="clerk", connection=connection)
            Order.objects.create(reference=reference)  # refuses a second one, which takes the message back as well
    except IntegrityError:
        return JsonResponse({"error": f"there is an order {reference}"}, status=409)
    return JsonResponse({"reference": reference, "input_id": receipt.input_id}, status=202)


def show(request: HttpRequest, reference: str) -> JsonResponse:
    order = get_object_or_404(Order, reference=reference)
    return JsonResponse({"reference": order.reference, "state": order.state})
