"""The one route of the peer."""

from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from ottu.contrib.django.views import WebhookViewAbstractView

urlpatterns = [path("webhook/", csrf_exempt(WebhookViewAbstractView.as_view()))]
